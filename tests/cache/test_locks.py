"""Locks count only while the path names the locked file: all directories are renamed away."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mender_gateway.cache.disk import Disk
from mender_gateway.cache.locks import EXCLUSIVE, SHARED, try_lock


class BetweenOpenAndLock(Disk):
    """Lets something happen once between the two calls."""

    def __init__(self, happen: Callable[[], None]) -> None:
        self._happen: Callable[[], None] | None = happen

    def flock(self, fd: int, operation: int) -> None:
        happen, self._happen = self._happen, None
        if happen is not None:
            happen()
        super().flock(fd, operation)


@pytest.mark.parametrize("operation", [SHARED, EXCLUSIVE])
def test_a_lock_on_what_has_lost_its_name_meanwhile_is_taken_anew(
    tmp_path: Path, operation: int
) -> None:
    file = tmp_path / "fill.lock"
    file.touch()

    def replaced() -> None:
        file.rename(tmp_path / "trash")
        file.touch()

    fd = try_lock(BetweenOpenAndLock(replaced), str(file), operation)
    assert fd is not None
    assert os.path.samestat(os.fstat(fd), file.stat())
    assert try_lock(Disk(), str(file), EXCLUSIVE) is None, "it is the one that others see"
    os.close(fd)


def test_what_was_removed_meanwhile_cannot_be_locked(tmp_path: Path) -> None:
    file = tmp_path / "fill.lock"
    file.touch()
    with pytest.raises(FileNotFoundError):
        try_lock(BetweenOpenAndLock(file.unlink), str(file), EXCLUSIVE)
