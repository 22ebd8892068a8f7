"""The directory looked at from beside: what is stored, whether it still is right, and its removal.

For the scrubber, the command line and whoever asks what an object is; works beside any number of
gateway processes and changes nothing that they hold. All methods wait for the disk and run in
threads. No lock is held while an object is read: one that is evicted meanwhile is closed at the
next look, so that its space is free at once. When an object was last found to be right stands in
the mtime of its `meta` file, which the commit wrote.
"""

import hashlib
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from mender_gateway.cache.disk import Disk
from mender_gateway.cache.eviction import Candidate
from mender_gateway.cache.files import data_files, list_directory, read_file
from mender_gateway.cache.layout import MARK_SIZE, Layout, Meta, decode_mark, decode_meta
from mender_gateway.cache.locks import EXCLUSIVE, SHARED, same_file, try_lock
from mender_gateway.cache.store import Store
from mender_gateway.cache.trash import throw_away

_PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stored:
    """A finished object. Times are seconds since 1970."""

    object_id: str
    meta: Meta
    size: int
    """Bytes that it takes of the disk."""
    used: float
    """Last served."""
    checked: float
    """Last found to be right, at the latest when it was stored."""


@dataclass(frozen=True, slots=True)
class Arriving:
    """A partial object."""

    object_id: str
    length: int | None
    """None while the origin has not said it."""
    position: int
    """Bytes that are readable."""
    size: int
    used: float
    filling: bool
    """A process is at it."""


class Verdict(Enum):
    RIGHT = "right"
    WRONG = "wrong"
    """Not what its metadata says, or not readable."""
    GONE = "gone"
    """Evicted, removed or replaced while it was looked at."""
    STOPPED = "stopped"


class Shelf:
    def __init__(self, path: str, disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self._store = Store(self.disk, path)
        self.layout: Layout = self._store.layout

    # -- looking ------------------------------------------------------------------------------

    def objects(self) -> list[Stored]:
        """All finished objects, the longest unserved first; what cannot be read is left out."""
        found = []
        for object_id in list_directory(self.disk, self.layout.objects):
            stored = self.object(object_id)
            if stored is not None:
                found.append(stored)
        return sorted(found, key=lambda stored: (stored.used, stored.object_id))

    def object(self, object_id: str) -> Stored | None:
        path = self.layout.object(object_id)
        meta = self._meta(f"{path}/meta")
        try:
            data = self.disk.stat(f"{path}/data")
            checked = self.disk.stat(f"{path}/meta").st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None
        if meta is None or meta.sha256 is None:
            return None
        return Stored(object_id, meta, data.st_blocks * 512, data.st_mtime, checked)

    def description(self, object_id: str) -> str | None:
        """What the verifier said of a finished object, None when that is nothing."""
        meta = self._meta(f"{self.layout.object(object_id)}/meta")
        return meta.description if meta is not None else None

    def arriving(self) -> list[Arriving]:
        """All partial objects that have bytes or a filler."""
        found = []
        for object_id in list_directory(self.disk, self.layout.partials):
            partial = self._arriving(object_id)
            if partial.size or partial.filling:
                found.append(partial)
        return sorted(found, key=lambda partial: partial.object_id)

    def _arriving(self, object_id: str) -> Arriving:
        path = self.layout.partial(object_id)
        size, used = 0, 0.0
        for name in data_files(self.disk, path):
            try:
                data = self.disk.stat(f"{path}/{name}")
            except FileNotFoundError:
                continue
            size, used = size + data.st_blocks * 512, max(used, data.st_mtime)
        meta = self._meta(f"{path}/meta")
        mark = decode_mark((read_file(self.disk, f"{path}/mark") or b"")[:MARK_SIZE])
        return Arriving(
            object_id,
            meta.length if meta is not None else None,
            mark.position if mark is not None else 0,
            size,
            used,
            self._locked(f"{path}/fill.lock"),
        )

    def _locked(self, path: str) -> bool:
        try:
            fd = try_lock(self.disk, path, SHARED)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if fd is None:
            return True
        self.disk.close(fd)
        return False

    def _meta(self, path: str) -> Meta | None:
        raw = read_file(self.disk, path)
        return decode_meta(raw) if raw is not None else None

    # -- reading again ------------------------------------------------------------------------

    def examine(
        self, stored: Stored, pause: Callable[[int], bool] | None = None, *, cached: bool = False
    ) -> Verdict:
        """Reads an object from the disk and compares it with its checksum.

        `pause` is called after each piece with its size and may wait; False stops. Unless `cached`
        the disk itself is read, past the system's cache of it, where the file system can do that.
        Notes in the metadata's mtime when it was right. Removes nothing.
        """
        path = f"{self.layout.object(stored.object_id)}/data"
        try:
            fd = self._open(path, cached)
        except (FileNotFoundError, NotADirectoryError):
            return Verdict.GONE
        try:
            if self.disk.fstat(fd).st_size != stored.meta.length:
                return self._unless_gone(fd, path)
            digest, at = hashlib.sha256(), 0
            with mmap.mmap(-1, _PIECE) as buffer, memoryview(buffer) as view:
                while at < stored.meta.length:
                    if not same_file(self.disk, fd, path):
                        return Verdict.GONE
                    try:
                        count = self.disk.preadv(fd, [view], at)
                    except OSError:
                        count = 0  # a bad sector
                    if not count:
                        return self._unless_gone(fd, path)
                    digest.update(view[:count])
                    at += count
                    if pause is not None and not pause(count):
                        return Verdict.STOPPED
            if digest.hexdigest() != stored.meta.sha256:
                return self._unless_gone(fd, path)
        finally:
            self.disk.close(fd)
        self._note(stored.object_id)
        return Verdict.RIGHT

    def _open(self, path: str, cached: bool) -> int:
        if not cached:
            try:
                return self.disk.open(path, os.O_RDONLY | os.O_DIRECT)
            except (FileNotFoundError, NotADirectoryError):
                raise
            except OSError:
                pass  # tmpfs and some others refuse O_DIRECT
        return self.disk.open(path, os.O_RDONLY)

    def _unless_gone(self, fd: int, path: str) -> Verdict:
        return Verdict.WRONG if same_file(self.disk, fd, path) else Verdict.GONE

    def _note(self, object_id: str) -> None:
        try:
            fd = self.disk.open(f"{self.layout.object(object_id)}/meta", os.O_RDONLY)
        except OSError:
            return
        try:
            self.disk.utime(fd)
        except OSError:
            pass  # a read-only file system, or another user's: it is looked at again earlier
        finally:
            self.disk.close(fd)

    # -- removing -----------------------------------------------------------------------------

    def remove(self, object_id: str, *, even_if_served: bool = False) -> bool:
        """Removes a finished object; False when it is being served or is not there."""
        return self._store.remove_object(object_id, even_if_served=even_if_served)

    def remove_partial(self, object_id: str) -> bool:
        """Removes what a dead filler left; False when a process is at it, reads it, or none is."""
        path = self.layout.partial(object_id)
        fds: list[int] = []
        try:
            self.disk.stat(path)
            for name in ("fill.lock", *data_files(self.disk, path)):
                try:
                    fd = try_lock(self.disk, f"{path}/{name}", EXCLUSIVE)
                except FileNotFoundError:
                    continue
                if fd is None:
                    return False
                fds.append(fd)
            throw_away(self.disk, self.layout, path, object_id)
        except (FileNotFoundError, NotADirectoryError):
            return False
        finally:
            for fd in fds:
                self.disk.close(fd)
        return True

    def candidates(self) -> list[Candidate]:
        """All that may be removed, as eviction sees it."""
        found = [Candidate("object", o.object_id, o.size, o.used) for o in self.objects()]
        found += [
            Candidate("partial", partial.object_id, partial.size, partial.used)
            for partial in self.arriving()
            if not partial.filling
        ]
        return found
