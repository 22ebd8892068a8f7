"""The scrubber: what is stored is read again now and then, and removed when it is damaged.

One thread per process, at the idle I/O priority and the lowest of the processor, reads objects that
were not checked for an interval, the longest unchecked first, a piece at a time with pauses
several times as long as the reading took. Of all processes that share the directory one does so at
a time: it holds `scrub.lock`. Suspects, of which a device has said that they failed, are read at
once, between two pieces of what is being read, and by whichever process was told.
"""

import ctypes
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mender_gateway.cache.locks import EXCLUSIVE, try_lock
from mender_gateway.cache.settings import Event, Kind
from mender_gateway.cache.shelf import Shelf, Stored, Verdict

_LOOK = 600.0
"""Seconds between two looks for objects that are due; a tenth of the interval when that is less."""
_SHORTEST_LOOK = 0.05
_SLOWNESS = 4.0
"""Pauses are so many times as long as reading a piece took, …"""
_LEAST_PAUSE = 0.02
"""… and at least so many seconds."""
_MOST_SUSPECTS = 256
_TRUST = 60.0
"""Seconds for which a suspect that was found right is not read again."""
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "armv7l": 314, "armv6l": 314}
_IOPRIO_SET |= {"i686": 289, "i386": 289, "ppc64le": 273, "s390x": 282}
_WHO_PROCESS, _CLASS_IDLE = 1, 3 << 13


@dataclass(frozen=True, slots=True)
class ScrubFigures:
    checked: int = 0
    damaged: int = 0
    checked_bytes: int = 0


class Scrubber:
    """`remove` takes a damaged object out of the cache; `report` gets an event for it.

    Both are called in the scrubber's thread. With an `interval` of 0 only suspects are read.
    """

    def __init__(
        self,
        shelf: Shelf,
        interval: float,
        remove: Callable[[str], None],
        report: Callable[[Event], None],
    ) -> None:
        self._shelf = shelf
        self._interval = interval
        self._remove = remove
        self._report = report
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._suspects: deque[str] = deque()
        self._found_right: dict[str, float] = {}
        self._figures = ScrubFigures()
        self._thread: threading.Thread | None = None

    @property
    def figures(self) -> ScrubFigures:
        return self._figures

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="scrub", daemon=True)
        self._thread.start()

    def close(self, patience: float = 5.0) -> None:
        """Ends the thread; waits for it, unless a disk call does not return."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(patience)

    def suspect(self, object_id: str) -> None:
        """Has an object read at once, unless it waits for that already; any thread, never waits."""
        if object_id not in self._suspects and len(self._suspects) < _MOST_SUSPECTS:
            self._suspects.append(object_id)
            self._wake.set()

    # -- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        be_idle()
        look = max(_SHORTEST_LOOK, min(_LOOK, self._interval / 10)) if self._interval else None
        while not self._stop.is_set():
            try:
                self._look_at_suspects()
                if self._interval:
                    self._look_at_due()
            except OSError:
                pass  # the disk is in trouble, which others report; the next look may be luckier
            if self._stop.is_set():
                break  # the pauses in an object take the wake-up that was meant for here
            self._wake.wait(look)
            self._wake.clear()

    def _look_at_suspects(self) -> None:
        while self._suspects and not self._stop.is_set():
            object_id = self._suspects[0]
            try:
                self._look_at_suspect(object_id)
            finally:
                self._suspects.popleft()

    def _look_at_suspect(self, object_id: str) -> None:
        now = time.monotonic()
        for known, since in list(self._found_right.items()):
            if now - since > _TRUST:
                del self._found_right[known]
        if object_id in self._found_right:
            return
        stored = self._shelf.object(object_id)
        if stored is None:
            return
        if self._check(stored, lambda _: not self._stop.is_set()) is Verdict.RIGHT:
            self._found_right[object_id] = time.monotonic()

    def _look_at_due(self) -> None:
        now = time.time()
        due = [s for s in self._shelf.objects() if now - s.checked >= self._interval]
        if not due:
            return
        lock = try_lock(
            self._shelf.disk, f"{self._shelf.layout.base}/scrub.lock", EXCLUSIVE, create=True
        )
        if lock is None:
            return
        try:
            for stored in sorted(due, key=lambda s: s.checked):
                if self._stop.is_set() or self._check(stored, _Pace(self)) is Verdict.STOPPED:
                    return
        finally:
            self._shelf.disk.close(lock)

    def _check(self, stored: Stored, pause: Callable[[int], bool]) -> Verdict:
        verdict = self._shelf.examine(stored, pause)
        figures, damaged = self._figures, verdict is Verdict.WRONG
        if verdict in (Verdict.RIGHT, Verdict.WRONG):
            self._figures = ScrubFigures(
                figures.checked + 1,
                figures.damaged + damaged,
                figures.checked_bytes + stored.meta.length,
            )
        if damaged:
            text = "its bytes on the disk are not what was stored; it is removed"
            self._report(Event(Kind.DAMAGED, text, stored.object_id))
            self._remove(stored.object_id)
        return verdict

    def between(self, seconds: float) -> bool:
        """Waits between two pieces; reads suspects meanwhile. Whether to go on."""
        deadline = time.monotonic() + seconds
        while not self._stop.is_set():
            if self._suspects:
                self._look_at_suspects()
            left = deadline - time.monotonic()
            if left <= 0:
                return True
            if self._wake.wait(left):
                self._wake.clear()
        return False


class _Pace:
    """The pauses in reading one object."""

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber = scrubber
        self._since = time.monotonic()

    def __call__(self, size: int) -> bool:
        took = time.monotonic() - self._since
        going_on = self._scrubber.between(max(_LEAST_PAUSE, took * _SLOWNESS))
        self._since = time.monotonic()
        return going_on


def be_idle() -> None:
    """Lowers the calling thread's priorities as far as the system lets us."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    except OSError:
        pass
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        try:
            ctypes.CDLL(None).syscall(number, _WHO_PROCESS, 0, _CLASS_IDLE)
        except (OSError, AttributeError):
            pass
