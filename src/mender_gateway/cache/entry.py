"""An object that is open in this process, and the readers on it.

An entry holds the data file's descriptor (under a shared lock, so that no process evicts it) and
knows how far the file is readable. Whoever fills or follows moves that mark; readers compare it
with their own offset and sleep when they have caught up. A slow reader slows nobody. Everything
here runs on the event loop and never waits for a disk.
"""

import asyncio
from collections.abc import Callable
from typing import Literal

from mender_gateway.cache.errors import FillBroken
from mender_gateway.cache.origin import Attributes

Outcome = Literal["hit", "miss", "joined"]


class Entry:
    """Shared by all readers of one object in this process."""

    __slots__ = (
        "_let_go",
        "_sleepers",
        "attributes",
        "broken",
        "checked",
        "closed",
        "fd",
        "finished",
        "idle_since",
        "mark",
        "object_id",
        "readers",
        "retired",
        "touched",
    )

    def __init__(
        self,
        object_id: str,
        attributes: Attributes,
        fd: int,
        let_go: Callable[["Entry"], None],
        *,
        finished: bool = False,
        mark: int = 0,
    ) -> None:
        self.object_id = object_id
        self.attributes = attributes
        self.fd = fd
        self.mark = attributes.length if finished else mark
        """Bytes below it are readable."""
        self.finished = finished
        """It is a finished object of the directory: the next acquire is a hit."""
        self.closed = False
        self.broken: FillBroken | None = None
        self.readers = 0
        self.retired = False
        """No longer in the table: closes with its last reader."""
        self.idle_since = asyncio.get_running_loop().time()
        self.checked = self.touched = self.idle_since
        self._let_go = let_go
        self._sleepers: set[tuple[int, asyncio.Future[None]]] = set()

    def advance(self, position: int) -> None:
        """Bytes below `position` are readable now; a lower position than before is ignored."""
        if position > self.mark and self.broken is None:
            self.mark = position
            self._wake()

    @property
    def idle(self) -> bool:
        """Nobody needs it: it may be let go."""
        return self.readers == 0 and self.finished

    def take_fd(self) -> int:
        """The descriptor, to be closed by the caller."""
        self.closed = True
        return self.fd

    def finish(self) -> None:
        """It is committed: a finished object of the directory."""
        self.finished = True
        self.advance(self.attributes.length)

    def break_off(self, error: FillBroken, *, sound: int | None = None) -> None:
        """The fill is over before its end; bytes from `sound` on are no longer to be trusted."""
        if self.broken is None and not self.finished:
            if sound is not None:
                self.mark = min(self.mark, sound)
            self.broken = error
            self._wake()

    def _wake(self) -> None:
        for sleeper in list(self._sleepers):
            offset, future = sleeper
            if offset < self.mark or self.broken is not None:
                self._sleepers.discard(sleeper)
                if not future.done():
                    future.set_result(None)

    async def progress(self, offset: int) -> None:
        """Waits until the byte at `offset` is readable or the fill is broken."""
        sleeper = (offset, asyncio.get_running_loop().create_future())
        self._sleepers.add(sleeper)
        try:
            await sleeper[1]
        finally:
            self._sleepers.discard(sleeper)

    def reader(self, outcome: Outcome) -> "Reader":
        self.readers += 1
        return Reader(self, outcome)

    def released(self) -> None:
        self.readers -= 1
        if self.readers == 0:
            self.idle_since = asyncio.get_running_loop().time()
            self._let_go(self)


class Reader:
    """One reader's pin on an entry: an async context manager, or `release` it by hand.

    Takes over a pin that the entry has counted already.
    """

    __slots__ = ("_entry", "_released", "attributes", "outcome")

    def __init__(self, entry: Entry, outcome: Outcome) -> None:
        self._entry = entry
        self._released = False
        self.attributes = entry.attributes
        self.outcome: Outcome = outcome

    @property
    def fd(self) -> int:
        """The data file, open for reading until `release`; owned by the cache."""
        if self._released:
            raise ValueError("the reader was released")
        return self._entry.fd

    def ready(self, offset: int) -> int:
        """Up to where bytes from `offset` on are readable now (`offset` itself: none are)."""
        return max(offset, self._entry.mark)

    async def wait(self, offset: int) -> int:
        """Waits for the byte at `offset`; returns up to where bytes are readable then.

        At or behind the object's end it returns at once. Raises FillBroken when that byte will not
        come.
        """
        entry = self._entry
        while entry.mark <= offset < self.attributes.length:
            if entry.broken is not None:
                raise entry.broken.again()
            await entry.progress(offset)
        return max(offset, entry.mark)

    def release(self) -> None:
        """Gives the pin back; idempotent, never waits. The descriptor is not to be used again."""
        if not self._released:
            self._released = True
            self._entry.released()

    async def __aenter__(self) -> "Reader":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()
