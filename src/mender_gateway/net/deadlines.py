"""One sweep for all waits: a deadline is a dictionary entry, not a timer.

A wait is a future. `Deadlines.set` notes when it is to fail; a single timer looks four times a
second and fails what is overdue with TimeoutError. A wait that ends in time costs two dictionary
operations, which matters because every request has several waits. Deadlines are therefore late by
up to a quarter of a second and never early.

A wait may bring a `recheck`, which the first sweep after its beginning calls once: libuv ends its
watch of a descriptor for good when it sees an error on it, also when that comes together with data;
whoever then waits for more would never hear of the error.
"""

import asyncio
from collections.abc import Callable
from typing import Any

_SWEEP = 0.25
"""Seconds between two sweeps."""


class Deadlines:
    """The pending deadlines of one event loop; not thread-safe."""

    __slots__ = ("_loop", "_pending", "_sweeping", "_swept")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending: dict[
            asyncio.Future[Any], tuple[float, float, Callable[[], None] | None]
        ] = {}
        """Wait to its deadline, its beginning and its recheck."""
        self._swept = 0.0
        self._sweeping = False

    def set(
        self,
        wait: asyncio.Future[Any],
        seconds: float,
        recheck: Callable[[], None] | None = None,
    ) -> None:
        """Let `wait` fail with TimeoutError after `seconds`, unless `clear` comes first.

        Infinity is no deadline.
        """
        now = self._loop.time()
        self._pending[wait] = (now + seconds, now, recheck)
        if not self._sweeping:
            self._sweeping = True
            self._swept = now
            self._loop.call_later(_SWEEP, self._sweep)

    def clear(self, wait: asyncio.Future[Any]) -> None:
        self._pending.pop(wait, None)

    def _sweep(self) -> None:
        now = self._loop.time()
        before, self._swept = self._swept, now
        overdue = []
        fresh = []
        for wait, (deadline, begun, recheck) in self._pending.items():
            if deadline <= now:
                overdue.append(wait)
            elif recheck is not None and begun >= before:
                fresh.append(recheck)
        for wait in overdue:
            del self._pending[wait]
            if not wait.done():
                wait.set_exception(TimeoutError())
        for recheck in fresh:
            recheck()
        if self._pending:
            self._loop.call_later(_SWEEP, self._sweep)
        else:
            self._sweeping = False
