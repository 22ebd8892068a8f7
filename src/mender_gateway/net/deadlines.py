"""One sweep for all waits: a deadline is a dictionary entry, not a timer.

A wait is a future. `Deadlines.set` notes when it is to fail; a single timer looks four times a
second and fails what is overdue with TimeoutError. A wait that ends in time costs two dictionary
operations, which matters because every request has several waits. Deadlines are therefore late by
up to a quarter of a second and never early.
"""

import asyncio
from typing import Any

_SWEEP = 0.25
"""Seconds between two sweeps."""


class Deadlines:
    """The pending deadlines of one event loop; not thread-safe."""

    __slots__ = ("_loop", "_pending", "_sweeping")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending: dict[asyncio.Future[Any], float] = {}
        self._sweeping = False

    def set(self, wait: asyncio.Future[Any], seconds: float) -> None:
        """Let `wait` fail with TimeoutError after `seconds`, unless `clear` comes first."""
        self._pending[wait] = self._loop.time() + seconds
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(_SWEEP, self._sweep)

    def clear(self, wait: asyncio.Future[Any]) -> None:
        self._pending.pop(wait, None)

    def _sweep(self) -> None:
        now = self._loop.time()
        overdue = [wait for wait, deadline in self._pending.items() if deadline <= now]
        for wait in overdue:
            del self._pending[wait]
            if not wait.done():
                wait.set_exception(TimeoutError())
        if self._pending:
            self._loop.call_later(_SWEEP, self._sweep)
        else:
            self._sweeping = False
