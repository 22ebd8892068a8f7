"""Whole-file locks that hold across processes.

A lock counts only while the path still names the locked file: directories are renamed away to be
deleted, so after locking, descriptor and path are compared, and a mismatch means: look again. A
killed process loses its locks at once; nothing is ever left locked. All functions may wait for a
disk and run in threads.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mender_gateway.cache.disk import BUSY, Disk
from mender_gateway.cache.errors import LockBusy

SHARED = fcntl.LOCK_SH
EXCLUSIVE = fcntl.LOCK_EX
_LOOKS = 100
_POLL = 0.01


def same_file(disk: Disk, fd: int, path: str) -> bool:
    """Whether `path` names the file that `fd` has open."""
    try:
        named = disk.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    opened = disk.fstat(fd)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def try_lock(disk: Disk, path: str, operation: int, *, create: bool = False) -> int | None:
    """Opens `path` for reading and writing and locks it without waiting.

    Returns the descriptor, which holds the lock until it is closed, or None when another holder
    stands in the way. Raises FileNotFoundError when there is no such file (with `create`: no such
    directory).
    """
    flags = os.O_RDWR | (os.O_CREAT if create else 0)
    for _ in range(_LOOKS):
        fd = disk.open(path, flags)
        try:
            disk.flock(fd, operation | fcntl.LOCK_NB)
            if same_file(disk, fd, path):
                kept, fd = fd, -1
                return kept
        except BUSY:
            if same_file(disk, fd, path):
                return None
        finally:
            if fd >= 0:
                disk.close(fd)
    return None


def take_over(disk: Disk, fd: int) -> bool:
    """Tries the exclusive lock on a file already open; the caller compares the path afterwards."""
    try:
        disk.flock(fd, EXCLUSIVE | fcntl.LOCK_NB)
    except BUSY:
        return False
    return True


@contextmanager
def directory_lock(disk: Disk, path: str, patience: float) -> Iterator[None]:
    """Holds the directory lock; waits for it up to `patience` seconds, then raises LockBusy."""
    deadline = time.monotonic() + patience
    while (fd := try_lock(disk, path, EXCLUSIVE, create=True)) is None:
        if time.monotonic() > deadline:
            raise LockBusy(f"{path} has been locked by another process for {patience:g} s")
        time.sleep(_POLL)
    try:
        yield
    finally:
        disk.close(fd)
