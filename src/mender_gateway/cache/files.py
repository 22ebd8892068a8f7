"""Small whole files and directories, written so that a power cut leaves the old or the new.

All functions wait for the disk and run in threads.
"""

import os
from contextlib import suppress

from mender_gateway.cache.disk import Disk

SMALL = 1024 * 1024
"""Bound for a file that is read whole."""


def read_file(disk: Disk, path: str) -> bytes | None:
    """The content of a small file (at most 1 MiB of it), or None when there is none."""
    try:
        fd = disk.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return disk.pread(fd, SMALL, 0)
    finally:
        disk.close(fd)


def write_file(disk: Disk, path: str, data: bytes, temporary: str, *, durable: bool) -> None:
    """Replaces `path` by way of `temporary` beside it; mode 0600.

    With `durable` the content is on the disk before the name changes; the directory entry is the
    caller's to fsync. What fails leaves no temporary behind, if the disk lets it be removed.
    """
    fd = disk.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        try:
            write_all(disk, fd, data, 0)
            if durable:
                disk.fsync(fd)
        finally:
            disk.close(fd)
        disk.rename(temporary, path)
    except OSError:
        with suppress(OSError):
            disk.unlink(temporary)
        raise


def write_all(disk: Disk, fd: int, data: bytes, offset: int) -> None:
    """Writes all of `data` at `offset`."""
    while data:
        written = disk.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def sync_directory(disk: Disk, path: str) -> None:
    """Makes the names in a directory durable."""
    fd = disk.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        disk.fsync(fd)
    finally:
        disk.close(fd)


def make_directories(disk: Disk, path: str) -> None:
    """Makes `path` and what is missing above it, mode 0700; others may do the same meanwhile."""
    try:
        disk.mkdir(path)
    except FileExistsError:
        return
    except FileNotFoundError:
        parent = os.path.dirname(path)
        if parent in ("", path) or _exists(disk, parent):
            raise  # mkdir itself fails so, below /proc for example
        make_directories(disk, parent)
        try:
            disk.mkdir(path)
        except FileExistsError:
            return


def _exists(disk: Disk, path: str) -> bool:
    try:
        disk.stat(path)
    except FileNotFoundError:
        return False
    return True


def remove_tree(disk: Disk, path: str) -> None:
    """Removes a directory and all below it, or whatever else has the name; symlinks are not
    followed, and what another process removes first is no error.
    """
    try:
        disk.unlink(path)
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        pass  # a directory
    try:
        for name in disk.listdir(path):
            remove_tree(disk, f"{path}/{name}")
        disk.rmdir(path)
    except FileNotFoundError:
        pass


def data_files(disk: Disk, partial: str) -> list[str]:
    """The names of the data files in a partial directory, that of a half-done commit included."""
    names = list_directory(disk, partial)
    found = [name for name in names if name.startswith("data.")]
    return [*found, "object/data"] if "object" in names else found


def list_directory(disk: Disk, path: str) -> list[str]:
    """The names in a directory, none when it is not there."""
    try:
        return disk.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
