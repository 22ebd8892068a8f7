"""Small real file systems in image files: disks that fill up or turn read-only.

Mounting needs root; where the tests may not, they are skipped.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_mounts = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


class SmallDisk:
    def __init__(self, path: Path) -> None:
        self.path = path

    def free(self) -> int:
        system = os.statvfs(self.path)
        return system.f_bavail * system.f_frsize

    def remount(self, option: str) -> None:
        _run("mount", "-o", f"remount,{option}", str(self.path))

    def fill_up(self, leave: int = 0) -> Path:
        """Writes a file that leaves at most `leave` bytes free."""
        hog = self.path / "hog"
        with hog.open("wb") as file:
            try:
                while (room := self.free() - leave) > 0:
                    file.write(bytes(min(room, 1024 * 1024)))
                    file.flush()
            except OSError:
                pass  # full
        return hog


@contextmanager
def small_disk(folder: Path, mebibytes: int, kind: str = "ext4") -> Iterator[SmallDisk]:
    """A new file system of the kind (ext4 or tmpfs), mounted below `folder`."""
    image = folder / "disk.img"
    if kind == "tmpfs":
        with _mounted(folder, "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs") as disk:
            yield disk
        return
    with image.open("wb") as file:
        file.truncate(mebibytes * 1024 * 1024)
    _run(f"mkfs.{kind}", "-q", "-m", "0", str(image))
    with mounted(image, folder) as disk:
        yield disk


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[SmallDisk]:
    """The file system in an image file, mounted below `folder`."""
    with _mounted(folder, "-o", "loop", str(image)) as disk:
        yield disk


@contextmanager
def _mounted(folder: Path, *what: str) -> Iterator[SmallDisk]:
    mount = folder / "disk"
    mount.mkdir()
    _run("mount", *what, str(mount))
    try:
        yield SmallDisk(mount)
    finally:
        _run("umount", "-l", str(mount))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(command)}: {done.stderr.strip()}")
