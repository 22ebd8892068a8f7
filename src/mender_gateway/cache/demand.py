"""What this process wants of one object: who may be asked for it, and where it is made known.

Readers that come while an object is being looked up or filled bring newer origins (a link signed
later), which replace older ones at the next opening.
"""

import asyncio

from mender_gateway.cache.entry import Entry, Outcome
from mender_gateway.cache.layout import Mark
from mender_gateway.cache.origin import Origin, VerifierFactory


class Demand:
    """One per object that is looked up, filled or followed in this process."""

    def __init__(self, object_id: str, origin: Origin, verifier: VerifierFactory | None) -> None:
        self.object_id = object_id
        self.origin = origin
        self.verifier = verifier
        self.entry: Entry | None = None
        self.outcome: Outcome | None = None
        """How the entry came to be: found, filled by us, or by another process."""
        self.stalled: Mark | None = None
        """The mark of another process that shows no life."""
        self._waiting = 0
        self._renewed = asyncio.Event()
        self.known: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        """The entry once its attributes are known, or the error that those who wait get."""
        self.known.add_done_callback(lambda future: future.cancelled() or future.exception())

    def offer(self, origin: Origin) -> None:
        """Another way to the origin, newer than those before."""
        if origin is not self.origin:
            self.origin = origin
            self._renewed.set()

    async def pause(self, seconds: float) -> None:
        """Waits before the next try, or until a newer origin is offered."""
        self._renewed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._renewed.wait()
        except TimeoutError:
            pass

    async def entry_pinned(self) -> Entry:
        """Waits for the entry; it comes with a pin that the caller owes back by `released`."""
        self._waiting += 1
        try:
            return await asyncio.shield(self.known)
        except asyncio.CancelledError:
            if self.entry is None:
                self._waiting -= 1
            else:
                self.entry.released()
            raise

    def publish(self, entry: Entry, outcome: Outcome) -> None:
        """The attributes are known: all who wait, and all who come, read of this entry."""
        self.entry = entry
        self.outcome = outcome
        entry.readers += self._waiting
        if not self.known.done():
            self.known.set_result(entry)

    def fail(self, error: BaseException) -> None:
        """Those who wait for the attributes get this; no effect once they are known."""
        if not self.known.done():
            self.known.set_exception(error)
