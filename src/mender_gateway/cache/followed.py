"""A partial object that another process fills, as seen from here. All waits are for the disk."""

import fcntl
import os
from dataclasses import dataclass

from mender_gateway.cache.disk import BUSY, Disk
from mender_gateway.cache.files import read_file
from mender_gateway.cache.layout import MARK_SIZE, Layout, Mark, Meta, decode_mark, decode_meta
from mender_gateway.cache.locks import SHARED, same_file, take_over
from mender_gateway.cache.partial import Partial


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at another's fill. Made after the lock was tried: with `free` the mark is final."""

    mark: Mark | None
    free: bool
    """The filler is dead, and its lock is ours now."""
    there: bool
    """The directory has not been renamed away (committed, evicted, removed)."""


class Followed:
    """Descriptors on another's partial directory; they stay valid when it is renamed away."""

    def __init__(
        self, disk: Disk, layout: Layout, object_id: str, meta: Meta, fds: tuple[int, int, int]
    ) -> None:
        self._disk = disk
        self._layout = layout
        self.object_id = object_id
        self.meta = meta
        self.data, self._mark, self._lock = fds

    def look(self) -> Sight:
        """Tries the filler's lock, then reads its mark."""
        free = take_over(self._disk, self._lock)
        path = f"{self._layout.partial(self.object_id)}/fill.lock"
        there = same_file(self._disk, self._lock, path) if free else True
        return Sight(decode_mark(self._disk.pread(self._mark, MARK_SIZE, 0)), free, there)

    def adopt(self) -> Partial:
        """Our own partial now, after a look that found it free and there."""
        lock, self._lock = self._lock, -1
        partial = Partial(self._disk, self._layout, self.object_id, lock)
        try:
            partial.recover()
        except BaseException:
            partial.close()
            raise
        return partial

    def take_data(self) -> int:
        """Hands the data file's descriptor over to the caller."""
        fd, self.data = self.data, -1
        return fd

    def close(self) -> None:
        """Gives back what was not handed over. Idempotent."""
        fds, self.data, self._mark, self._lock = (self.data, self._mark, self._lock), -1, -1, -1
        for fd in fds:
            if fd >= 0:
                self._disk.close(fd)


def open_followed(disk: Disk, layout: Layout, object_id: str) -> Followed | None:
    """Opens what is needed to follow, or None while the filler knows no attributes yet."""
    path = layout.partial(object_id)
    raw = read_file(disk, f"{path}/meta")
    meta = decode_meta(raw) if raw is not None else None
    if meta is None or meta.data == "data":
        return None
    fds: list[int] = []
    try:
        fds.append(disk.open(f"{path}/{meta.data}", os.O_RDONLY))
        disk.flock(fds[0], SHARED | fcntl.LOCK_NB)
        fds.append(disk.open(f"{path}/mark", os.O_RDONLY))
        fds.append(disk.open(f"{path}/fill.lock", os.O_RDWR))
        data, mark, lock = fds
        fds = []
        return Followed(disk, layout, object_id, meta, (data, mark, lock))
    except (FileNotFoundError, NotADirectoryError, *BUSY):
        return None
    finally:
        for fd in fds:
            disk.close(fd)
