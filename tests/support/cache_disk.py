"""The real disk with faults on command: errors, a frozen call, or the process's death, at any call.

Faults are chosen by the call's name, by its path (that of a descriptor is looked up), and by its
number in the order of all calls.
"""

import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mender_gateway.cache.disk import Disk

OPERATIONS = (
    "open",
    "pread",
    "preadv",
    "pwrite",
    "pwritev",
    "fsync",
    "fdatasync",
    "flock",
    "fstat",
    "stat",
    "lstat",
    "statvfs",
    "listdir",
    "mkdir",
    "rmdir",
    "rename",
    "unlink",
    "utime",
)


def anywhere(path: str) -> bool:
    return True


@dataclass(slots=True)
class Fault:
    names: Sequence[str]
    errno: int
    when: Callable[[str], bool] = anywhere
    first: int = 0
    """Number of the first call, of those that match, that fails."""
    times: int | None = None
    """How many fail; None: all from then on."""
    met: int = field(default=0, init=False)


class FaultyDisk(Disk):
    """Also counts its calls, and can kill this process instead of making call number `kill_at`."""

    def __init__(self, *, kill_at: int | None = None) -> None:
        self.calls: list[str] = []
        self.kill_at = kill_at
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self.going = threading.Event()
        """Cleared: calls wait until it is set again."""
        self.going.set()
        self.hanging: Sequence[str] = OPERATIONS
        """Which calls wait."""

    def fail(
        self,
        names: str | Sequence[str],
        errno: int,
        *,
        when: Callable[[str], bool] = anywhere,
        first: int = 0,
        times: int | None = None,
    ) -> Fault:
        names = (names,) if isinstance(names, str) else names
        fault = Fault(names, errno, when, first, times)
        self._faults.append(fault)
        return fault

    def heal(self) -> None:
        self._faults.clear()

    def before(self, name: str, target: Any) -> None:
        """Called before each real call with its first argument."""
        if name in self.hanging:
            self.going.wait()
        with self._lock:
            if self.kill_at is not None and len(self.calls) >= self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.calls.append(name)
            for fault in self._faults:
                if name not in fault.names:
                    continue
                path = target
                if isinstance(target, int):
                    path = os.readlink(f"/proc/self/fd/{target}")
                if not fault.when(path):
                    continue
                fault.met += 1
                since = fault.met - 1 - fault.first
                if since >= 0 and (fault.times is None or since < fault.times):
                    raise OSError(fault.errno, os.strerror(fault.errno), path)


def _guarded(name: str) -> Callable[..., Any]:
    real = getattr(Disk, name)

    def call(self: FaultyDisk, target: Any, *rest: Any, **named: Any) -> Any:
        self.before(name, target)
        return real(self, target, *rest, **named)

    return call


for _name in OPERATIONS:
    setattr(FaultyDisk, _name, _guarded(_name))
