"""One object's partial directory, held under the exclusive lock from its beginning to its end.

The filler writes with pwrite at explicit offsets into a data file named after the object's version,
so that a filler which lost its lock without knowing can only write equal bytes. One running SHA-256
is sampled and recorded at every chunk boundary, and what was written is made durable each time. Who
takes over keeps the bytes up to the last sample that the file still matches, so that a sample which
reached the disk before its bytes did is no danger. The commit builds `object/`
inside the partial directory and renames it into `objects/`; lock, mark and note stay behind and go
to the trash. `write`, `sync` and `beat` may run in different threads at a time, everything else
runs alone; all wait for the disk.
"""

import errno
import hashlib
import mmap
import os
import secrets
import threading
from collections.abc import Callable, Sequence

import msgspec

from mender_gateway.cache.disk import Disk
from mender_gateway.cache.errors import PartialLost, VerificationFailed
from mender_gateway.cache.files import (
    list_directory,
    make_directories,
    read_file,
    remove_tree,
    sync_directory,
    write_all,
    write_file,
)
from mender_gateway.cache.layout import (
    DIGEST,
    MARK_SIZE,
    Layout,
    Mark,
    MarkState,
    Meta,
    decode_mark,
    decode_meta,
    encode_mark,
    encode_meta,
    finished_meta,
    new_meta,
)
from mender_gateway.cache.locks import SHARED, same_file
from mender_gateway.cache.origin import Attributes, Verifier
from mender_gateway.cache.trash import throw_away

_VECTORS = 512
"""Buffers per pwritev; the kernel takes 1,024."""


class Partial:
    """Owns the lock's descriptor and all others of the fill; `close` gives them back."""

    def __init__(self, disk: Disk, layout: Layout, object_id: str, lock: int) -> None:
        self._disk = disk
        self._layout = layout
        self.object_id = object_id
        self.path = layout.partial(object_id)
        self._lock = lock
        self._data = self._prefix = self._mark = -1
        self._beat = secrets.randbits(32)
        self._state = MarkState.FILLING
        self._marking = threading.Lock()
        self.using = threading.RLock()
        """Held by a job that must have ended before `close`, even when nobody waits for it."""
        self.meta: Meta | None = None
        """Of the data file in use, or of the one that was found."""
        self.claimed = 0
        """Bytes with recorded digests when it was found; `keep` tells how many are right."""
        self.found = 0
        """Bytes that an earlier filler had made readable."""
        self.position = 0
        """Bytes written, or kept from an earlier filler."""
        self.durable = 0
        """Bytes that survive a power cut and can be verified after it."""
        self.verifier: Verifier | None = None
        self._hash = hashlib.sha256()

    # -- beginning ---------------------------------------------------------------------------

    def recover(self) -> None:
        """Reads what an earlier filler left; undoes a commit that it could not finish."""
        raw = read_file(self._disk, f"{self.path}/meta")
        meta = decode_meta(raw) if raw is not None else None
        if meta is not None and meta.data != "data":
            try:
                self._disk.rename(f"{self.path}/object/data", f"{self.path}/{meta.data}")
            except (FileNotFoundError, NotADirectoryError):
                pass
            if meta.attributes.validator is not None:
                self.meta = meta
                self.claimed = self._claims(meta)
                self.found = max(self.claimed, self._marked(meta))
        remove_tree(self._disk, f"{self.path}/object")
        for name in list_directory(self._disk, self.path):
            if name.startswith("note."):  # its writer died, or will write it again
                remove_tree(self._disk, f"{self.path}/{name}")

    def _claims(self, meta: Meta) -> int:
        try:
            size = self._disk.stat(f"{self.path}/{meta.data}").st_size
            samples = self._disk.stat(f"{self.path}/{meta.prefix}").st_size // DIGEST
        except FileNotFoundError:
            return 0
        claimed = min(samples * meta.chunk, meta.length)
        return claimed if size >= claimed else size // meta.chunk * meta.chunk

    def _marked(self, meta: Meta) -> int:
        raw = read_file(self._disk, f"{self.path}/mark")
        mark = decode_mark(raw[:MARK_SIZE]) if raw is not None else None
        return mark.position if mark is not None and mark.tag == meta.tag else 0

    def prepare(self, attributes: Attributes, chunk: int) -> int:
        """Chooses the data file for this version of the object and removes those of others.

        Returns the bytes that the file system has already given to it.
        """
        tag = attributes.fingerprint or secrets.token_bytes(8)
        meta = new_meta(attributes, tag, chunk)
        if self.meta is not None and self.meta.data == meta.data:
            meta = msgspec.structs.replace(meta, chunk=self.meta.chunk)
        else:
            self.claimed = self.found = 0
        self._close_files()
        for name in list_directory(self._disk, self.path):
            if name.startswith(("data.", "prefix.")) and name not in (meta.data, meta.prefix):
                self._disk.unlink(f"{self.path}/{name}")
        self.meta = meta
        try:
            return self._disk.stat(f"{self.path}/{meta.data}").st_blocks * 512
        except FileNotFoundError:
            return 0

    def declare(self) -> None:
        """Opens the files and writes `meta`: from now on the declared length is reserved.

        Called under the directory lock. Data, digests and mark exist before `meta` does, so that
        whoever reads `meta` can open the others.
        """
        meta = self._meta
        flags = os.O_RDWR | os.O_CREAT
        self._data = self._disk.open(f"{self.path}/{meta.data}", flags)
        self._prefix = self._disk.open(f"{self.path}/{meta.prefix}", flags)
        self._mark = self._disk.open(f"{self.path}/mark", flags)
        self._hash = hashlib.sha256()
        self.position = self.durable = 0
        self._state = MarkState.FILLING
        self.beat()
        raw = encode_meta(meta)
        if read_file(self._disk, f"{self.path}/meta") != raw:
            temporary = f"{self.path}/meta.new"
            write_file(self._disk, f"{self.path}/meta", raw, temporary, durable=True)
            sync_directory(self._disk, self.path)
            sync_directory(self._disk, self._layout.partials)

    @property
    def _meta(self) -> Meta:
        if self.meta is None:
            raise PartialLost(f"{self.path} has no data file yet")
        return self.meta

    def open_reader(self) -> int:
        """A descriptor for reading the data file, under a shared lock."""
        fd = self._disk.open(f"{self.path}/{self._meta.data}", os.O_RDONLY)
        try:
            self._disk.flock(fd, SHARED)
        except BaseException:
            self._disk.close(fd)
            raise
        return fd

    def keep(self, progressed: Callable[[int], None], stop: threading.Event) -> None:
        """Verifies what an earlier filler left, chunk by chunk, and moves `position` behind it.

        Each verified chunk is fed to the verifier and made known; `progressed` is called with the
        position. Ends early once `stop` is set. Raises VerificationFailed.
        """
        meta = self._meta
        records = self.claimed // meta.chunk + (self.claimed % meta.chunk > 0)
        if not records:
            return
        # Mapped, not allocated: what a thread has allocated once in such pieces stays with it.
        whole = memoryview(mmap.mmap(-1, min(meta.chunk, meta.length)))
        for index in range(records):
            if stop.is_set():
                return
            start = index * meta.chunk
            if not self._kept(whole[: min(meta.chunk, meta.length - start)], index):
                return
            progressed(self.readable)

    def _kept(self, view: memoryview, index: int) -> bool:
        """Reads chunk `index` into `view`; whether it is what was recorded, and is kept."""
        start = index * self._meta.chunk
        if not self._read(view, start):
            return False
        trial = self._hash.copy()
        trial.update(view)
        if trial.digest() != self._disk.pread(self._prefix, DIGEST, index * DIGEST):
            return False
        self._feed(view)
        self._hash = trial
        self.position = self.durable = start + len(view)
        self.beat()
        return True

    def _read(self, view: memoryview, offset: int) -> bool:
        while view:
            try:
                count = self._disk.preadv(self._data, [view], offset)
            except OSError:
                count = 0  # a bad sector: what lies there is fetched and written anew
            if count == 0:
                return False
            view, offset = view[count:], offset + count
        return True

    # -- filling -----------------------------------------------------------------------------

    @property
    def readable(self) -> int:
        """How far readers may go: the last byte waits until everything is known to be right."""
        if self._state is MarkState.COMPLETE:
            return self.position
        return min(self.position, max(0, self._meta.length - 1))

    def write(self, pieces: Sequence[bytes]) -> None:
        """Appends at `position`, hashes, verifies and makes the new mark known to followers."""
        at = self.position
        for first in range(0, len(pieces), _VECTORS):
            views = [memoryview(piece) for piece in pieces[first : first + _VECTORS]]
            while views:
                written = self._disk.pwritev(self._data, views, at)
                if written == 0:
                    raise OSError(errno.EIO, "nothing was written", self.path)
                at += written
                while views and written >= len(views[0]):
                    written -= len(views.pop(0))
                if written:
                    views[0] = views[0][written:]
        for piece in pieces:
            self._digest(memoryview(piece))
        self.beat()

    def _digest(self, view: memoryview) -> None:
        chunk = self._meta.chunk
        while view:
            part = view[: chunk - self.position % chunk]
            self._hash.update(part)
            self._feed(part)
            self.position += len(part)
            if self.position % chunk == 0:
                self._sample()
            view = view[len(part) :]

    def _sample(self) -> None:
        index = (self.position - 1) // self._meta.chunk
        write_all(self._disk, self._prefix, self._hash.digest(), index * DIGEST)

    def _feed(self, part: memoryview) -> None:
        if self.verifier is None:
            return
        try:
            self.verifier.feed(part)
        except VerificationFailed:
            raise
        except Exception as error:
            raise VerificationFailed(f"the verifier failed: {error!r}") from error

    @property
    def unsynced(self) -> int:
        """Whole chunks written and not durable yet."""
        chunk = self._meta.chunk
        return self.position // chunk - self.durable // chunk

    def sync(self) -> None:
        """Makes the written bytes durable, and their digests."""
        position = self.position
        self._disk.fdatasync(self._data)
        self._disk.fdatasync(self._prefix)
        self.durable = position

    def beat(self) -> None:
        """Writes the mark: a sign of life, and how far the file is readable."""
        with self._marking:
            if self._mark < 0:
                return
            self._beat += 1
            mark = Mark(self._state, self._beat, self.readable, self._meta.tag)
            write_all(self._disk, self._mark, encode_mark(mark), 0)

    # -- ending ------------------------------------------------------------------------------

    def finish(self) -> str | None:
        """After the last byte: the verifier's word, then the last byte is made readable.

        Returns the verifier's description. Raises VerificationFailed.
        """
        description = None
        if self.verifier is not None:
            try:
                description = self.verifier.finish()
            except VerificationFailed:
                raise
            except Exception as error:
                raise VerificationFailed(f"the verifier failed: {error!r}") from error
        if self.position % self._meta.chunk:
            self._sample()
        self._state = MarkState.COMPLETE
        self.beat()
        return description

    def held(self) -> bool:
        """Whether the directory is still the one that we locked."""
        return same_file(self._disk, self._lock, f"{self.path}/fill.lock")

    def commit(self, description: str | None) -> None:
        """Renames the finished object into place, durably, and removes the partial directory.

        Raises PartialLost when the object cannot be kept, through nobody's fault.
        """
        target = self._layout.object(self.object_id)
        made = f"{self.path}/object"
        raw = encode_meta(finished_meta(self._meta, self._hash.hexdigest(), description))
        self._disk.utime(self._data)
        self.sync()
        self._disk.fsync(self._data)
        if not self.held():
            raise PartialLost(f"{self.path} was removed while it was filled")
        try:
            remove_tree(self._disk, made)
            self._disk.mkdir(made)
            write_file(self._disk, f"{made}/meta", raw, f"{made}/meta.new", durable=True)
            self._disk.rename(f"{self.path}/{self._meta.data}", f"{made}/data")
            sync_directory(self._disk, made)
            if not self.held():
                raise PartialLost(f"{self.path} was replaced while it was committed")
            make_directories(self._disk, self._layout.objects)
            self._disk.rename(made, target)
        except (FileNotFoundError, FileExistsError, NotADirectoryError) as error:
            raise PartialLost(f"{self.path} cannot be committed: {error}") from error
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                raise PartialLost(f"{target} is there already") from error
            raise
        try:
            sync_directory(self._disk, self._layout.objects)
        except OSError:
            # a name under objects/ is durable, or it is not there
            throw_away(self._disk, self._layout, target, self.object_id)
            raise
        try:
            self.discard()
        except OSError:
            pass  # junk beside a finished object; the next start clears it

    def abort(self) -> None:
        """Tells followers that their readers must be aborted."""
        self._state = MarkState.ABORTED
        self.beat()

    def discard(self) -> None:
        """Removes the directory, unless it is no longer ours; the lock stays held."""
        if self.held():
            throw_away(self._disk, self._layout, self.path, self.object_id)

    def _close_files(self) -> None:
        with self._marking:
            files = (self._data, self._prefix, self._mark)
            self._data = self._prefix = self._mark = -1
        for fd in files:
            if fd >= 0:
                self._disk.close(fd)

    def close(self) -> None:
        """Gives everything back, the lock last. Idempotent."""
        with self.using:
            self._close_files()
            lock, self._lock = self._lock, -1
            if lock >= 0:
                self._disk.close(lock)

    def leave(self) -> None:
        """Gives everything back; a directory without a byte worth keeping goes with it."""
        try:
            if not self.position and not self.claimed:
                self.discard()
        finally:
            self.close()
