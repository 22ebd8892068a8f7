"""The directory: finished objects, the locks on partial ones, housekeeping.

Nothing is remembered between calls but the path: the directory is the truth, and any number of
processes may work on it. All methods wait for the disk and run in threads.
"""

import fcntl
import os
import secrets
import time
from dataclasses import dataclass

from mender_gateway.cache.disk import BUSY, Disk
from mender_gateway.cache.errors import DiskTrouble
from mender_gateway.cache.files import (
    list_directory,
    make_directories,
    read_file,
    write_file,
)
from mender_gateway.cache.followed import Followed, open_followed
from mender_gateway.cache.layout import (
    Layout,
    Meta,
    decode_meta,
    decode_note,
    encode_note,
)
from mender_gateway.cache.locks import EXCLUSIVE, SHARED, same_file, try_lock
from mender_gateway.cache.partial import Partial
from mender_gateway.cache.trash import empty_trash, throw_away

_LOOKS = 200
_PAUSE = 0.005


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished object, its data file open for reading under a shared lock."""

    meta: Meta
    fd: int
    damaged: bool = False


class Store:
    def __init__(self, disk: Disk, path: str) -> None:
        self.disk = disk
        self.layout = Layout(os.path.abspath(path))

    # -- the directory as a whole ------------------------------------------------------------

    def ensure(self) -> None:
        """Makes the directories that are missing."""
        for path in (self.layout.objects, self.layout.partials, self.layout.trash):
            make_directories(self.disk, path)

    def probe(self) -> None:
        """Raises OSError when the directory cannot be written.

        Another process that starts empties the trash, in which this is tried: then once more.
        """
        for last in (False, False, True):
            self.ensure()
            path = f"{self.layout.trash}/probe.{secrets.token_hex(8)}"
            try:
                self.disk.mkdir(path)
                write_file(self.disk, f"{path}/b", b"probe", f"{path}/a", durable=False)
            except FileNotFoundError:
                if last:
                    raise
            else:
                return
            finally:
                throw_away(self.disk, self.layout, path, "probe")

    def sweep(self, note_age: float) -> None:
        """Clears what no one holds: the trash, partials of finished objects, old lone notes."""
        empty_trash(self.disk, self.layout)
        for object_id in list_directory(self.disk, self.layout.partials):
            path = self.layout.partial(object_id)
            try:
                fd = try_lock(self.disk, f"{path}/fill.lock", EXCLUSIVE, create=True)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if fd is None:
                continue
            try:
                if self._is_junk(object_id, note_age):
                    throw_away(self.disk, self.layout, path, object_id)
            finally:
                self.disk.close(fd)

    def _is_junk(self, object_id: str, note_age: float) -> bool:
        if self.has_object(object_id):
            return True
        path = self.layout.partial(object_id)
        names = list_directory(self.disk, path)
        if any(name.startswith("data.") for name in names) or "object" in names:
            return False
        if "note" not in names:
            return True
        try:
            return self.disk.stat(f"{path}/note").st_mtime < time.time() - note_age
        except FileNotFoundError:
            return False

    # -- finished objects --------------------------------------------------------------------

    def has_object(self, object_id: str) -> bool:
        try:
            self.disk.stat(f"{self.layout.object(object_id)}/meta")
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def peek(self, object_id: str) -> Meta | None:
        """The metadata of a finished object that is whole, without opening it."""
        path = self.layout.object(object_id)
        raw = read_file(self.disk, f"{path}/meta")
        meta = decode_meta(raw) if raw is not None else None
        if meta is None or meta.sha256 is None:
            return None
        try:
            return meta if self.disk.stat(f"{path}/data").st_size == meta.length else None
        except FileNotFoundError:
            return None

    def open_object(self, object_id: str) -> Finished | None:
        """Opens a finished object for serving, or None when there is none.

        One that is not what its metadata says is none.
        """
        path = self.layout.object(object_id)
        for _ in range(_LOOKS):
            try:
                fd = self.disk.open(f"{path}/data", os.O_RDONLY)
            except (FileNotFoundError, NotADirectoryError):
                return None
            kept = False
            try:
                self.disk.flock(fd, SHARED | fcntl.LOCK_NB)
                if not same_file(self.disk, fd, f"{path}/data"):
                    continue
                meta = self.peek(object_id)
                if meta is None:
                    return None
                kept = True
                return Finished(meta, fd)
            except BUSY:
                time.sleep(_PAUSE)  # it is being evicted, in a moment it is gone
            finally:
                if not kept:
                    self.disk.close(fd)
        raise DiskTrouble(f"{path} stays locked")

    def touch(self, object_id: str, fd: int, *, served: bool) -> bool:
        """Whether `fd` still is the object's data file; with `served` its mtime is set to now."""
        if served:
            try:
                self.disk.utime(fd)
            except OSError:
                pass  # a read-only file system can still be served from
        return same_file(self.disk, fd, f"{self.layout.object(object_id)}/data")

    def remove_object(
        self, object_id: str, *, even_if_served: bool = False, only: int | None = None
    ) -> bool:
        """Removes a finished object; False when it is being served or is not there.

        `only`: the one whose data file is open as this descriptor, and no later one of the name.
        """
        path = self.layout.object(object_id)
        try:
            fd = try_lock(self.disk, f"{path}/data", EXCLUSIVE)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            if fd is None and not even_if_served:
                return False
            if only is not None and not same_file(self.disk, only, f"{path}/data"):
                return False
            throw_away(self.disk, self.layout, path, object_id)
        finally:
            if fd is not None:
                self.disk.close(fd)
        return True

    # -- partial objects ---------------------------------------------------------------------

    def look(self, object_id: str) -> Finished | Partial | Followed | None:
        """What can be had of an object: finished, ours to fill, or filled elsewhere.

        None: another holds the lock and has not said yet what the object is; look again soon.
        """
        finished = self.open_object(object_id)
        if finished is not None:
            return finished
        partial = self.lock_partial(object_id)
        if partial is None:
            return open_followed(self.disk, self.layout, object_id)
        try:
            finished = self.open_object(object_id)
            if finished is not None:
                partial.discard()
                partial.close()
                return finished
            self._clear_place(object_id)
            partial.recover()
        except BaseException:
            partial.close()
            raise
        return partial

    def _clear_place(self, object_id: str) -> None:
        """Throws away what stands in an object's place and is none.

        Only whoever holds the fill lock may commit, so that nothing is taken away that was
        committed since we looked.
        """
        path = self.layout.object(object_id)
        try:
            self.disk.lstat(path)
        except FileNotFoundError:
            return
        throw_away(self.disk, self.layout, path, object_id)

    def lock_partial(self, object_id: str) -> Partial | None:
        """The partial directory under our lock, made when missing; None when another has it."""
        path = self.layout.partial(object_id)
        for _ in range(_LOOKS):
            self.ensure()
            make_directories(self.disk, path)
            try:
                fd = try_lock(self.disk, f"{path}/fill.lock", EXCLUSIVE, create=True)
            except FileNotFoundError:
                continue  # committed or evicted between the two calls
            return None if fd is None else Partial(self.disk, self.layout, object_id, fd)
        raise DiskTrouble(f"{path} cannot be made")

    # -- notes -------------------------------------------------------------------------------

    def remember(self, object_id: str, note: bytes) -> None:
        """Keeps `note` with the partial object, in place of an older one; mode 0600."""
        path = self.layout.partial(object_id)
        temporary = f"{path}/note.{secrets.token_hex(8)}"
        for _ in range(_LOOKS):
            if self.has_object(object_id):
                return
            try:
                make_directories(self.disk, path)
                write_file(self.disk, f"{path}/note", encode_note(note), temporary, durable=False)
            except FileNotFoundError:
                continue
            return

    def recall(self, object_id: str) -> bytes | None:
        raw = read_file(self.disk, f"{self.layout.partial(object_id)}/note")
        return decode_note(raw) if raw is not None else None
