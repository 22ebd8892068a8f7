"""What the streams of one event loop share: one epoll set, and one sweep for their deadlines.

The loop watches the set as it would watch a single socket. So a wait costs no call of the kernel
and no handle of the loop, whichever loop it is, and nothing comes between the kernel's word and the
stream: libuv, for one, tells of an error once and forgets the descriptor.

A deadline is a number in the stream, not a timer: four times a second all watched streams are
asked what is overdue. Deadlines are therefore late by up to a quarter of a second and never early.
"""

import asyncio
import select
from typing import Protocol

_BATCH = 256
_SWEEP = 0.25
"""Seconds between two sweeps."""


class Watched(Protocol):
    """What is told of its descriptor's events."""

    def on_events(self, events: int) -> None: ...
    def on_time(self, now: float) -> None: ...


class Poller:
    """Belongs to one event loop; not thread-safe."""

    __slots__ = ("_set", "_sweeping", "_watched", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._set = select.epoll()
        self._watched: dict[int, Watched] = {}
        self._sweeping = False
        loop.add_reader(self._set.fileno(), self._dispatch)

    def add(self, fd: int, watched: Watched, events: int) -> None:
        """Tell `watched` of `events` (EPOLLIN, EPOLLOUT) as long as they last, of errors, and of
        the time.
        """
        self._set.register(fd, events)
        self._watched[fd] = watched
        if not self._sweeping:
            self._sweeping = True
            self.loop.call_later(_SWEEP, self._sweep)

    def change(self, fd: int, events: int) -> None:
        self._set.modify(fd, events)

    def remove(self, fd: int) -> None:
        """To be called before `fd` is closed; after `close` there is nothing to do."""
        if self._watched.pop(fd, None) is not None:
            self._set.unregister(fd)

    def _dispatch(self) -> None:
        watched = self._watched
        for fd, events in self._set.poll(0, _BATCH):
            one = watched.get(fd)
            if one is not None:
                one.on_events(events)

    def _sweep(self) -> None:
        now = self.loop.time()
        for one in list(self._watched.values()):
            one.on_time(now)
        self._sweeping = bool(self._watched)
        if self._sweeping:
            self.loop.call_later(_SWEEP, self._sweep)

    def close(self) -> None:
        """Watch nothing any more."""
        self.loop.remove_reader(self._set.fileno())
        self._watched.clear()
        self._set.close()
