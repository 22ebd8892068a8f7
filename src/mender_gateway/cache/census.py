"""What the directory holds, counted now and then: for figures, and never for a decision.

Counting looks at every stored object, so who asks often is told what was found a moment ago, the
longer the count took the older; those who ask at once share one count. It runs where long jobs do,
so that a directory on a slow disk keeps no artifact waiting, and who asks waits a moment at most.
"""

import asyncio
from dataclasses import dataclass

from mender_gateway.cache.room import survey
from mender_gateway.cache.settings import CacheSettings
from mender_gateway.cache.store import Store
from mender_gateway.cache.threads import Threads

_SHARE = 20.0
"""A count is good for so many times as long as it took, …"""


@dataclass(frozen=True, slots=True)
class Count:
    objects: int = 0
    stored_bytes: int = 0
    partials: int = 0
    partial_bytes: int = 0
    reserved_bytes: int = 0
    free_bytes: int = 0


class Census:
    """One count at a time; runs on the event loop."""

    def __init__(self, store: Store, threads: Threads, settings: CacheSettings) -> None:
        self._store = store
        self._threads = threads
        self._settings = settings
        self._counting: asyncio.Task[None] | None = None
        self._good_until = 0.0
        self.last = Count()

    async def fresh(self) -> None:
        """Returns when `last` is of now, or recent, or counting it takes long; raises DiskTrouble.

        What takes long goes on by itself.
        """
        loop = asyncio.get_running_loop()
        if self._counting is None:
            if loop.time() < self._good_until:
                return
            self._counting = loop.create_task(self.take())
            self._counting.add_done_callback(self._counted)
        counting = self._counting
        await asyncio.wait({counting}, timeout=self._settings.count_patience)
        if counting.done() and not counting.cancelled():
            counting.result()

    def _counted(self, counting: asyncio.Task[None]) -> None:
        self._counting = None
        if not counting.cancelled():
            counting.exception()

    async def take(self) -> None:
        """Counts now; raises DiskTrouble when it cannot."""
        loop = asyncio.get_running_loop()
        disk, layout = self._store.disk, self._store.layout
        began = loop.time()
        try:
            stock, _ = await self._threads.run_long(lambda: survey(disk, layout, self._settings))
        finally:
            took = loop.time() - began
            self._good_until = loop.time() + max(self._settings.count_every, _SHARE * took)
        objects = [c.size for c in stock.candidates if c.kind == "object"]
        partials = [c.size for c in stock.candidates if c.kind == "partial"]
        partials += [filling.written for filling in stock.fillings]
        self.last = Count(
            objects=len(objects),
            stored_bytes=sum(objects),
            partials=len(partials),
            partial_bytes=sum(partials),
            reserved_bytes=stock.reserved,
            free_bytes=stock.free,
        )

    def close(self) -> None:
        """Lets a count that runs go; waits for no disk."""
        if self._counting is not None:
            self._counting.cancel()
