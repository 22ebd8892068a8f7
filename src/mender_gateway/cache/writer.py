"""Between the origin's socket and the disk: batches, with a bound on what waits.

While one batch is being written in a thread, the next one gathers; so a slow uplink sees every
piece written at once, and a fast one gets large batches by itself. Durability runs beside the
writing: one fdatasync at a time covers all chunks completed before it.
"""

import asyncio
from collections.abc import Callable
from functools import partial as bound

from mender_gateway.cache.errors import DiskTrouble
from mender_gateway.cache.partial import Partial
from mender_gateway.cache.threads import Threads

GATHERED = 1024 * 1024
"""Bytes that may wait while as many are being written."""
UNSYNCED = 16
"""Chunks that may be written ahead of their fdatasync."""


class Writer:
    """Owned by one fill; all of it runs on the event loop except the jobs it hands to threads."""

    def __init__(
        self,
        threads: Threads,
        partial: Partial,
        advanced: Callable[[int], None],
        failed: Callable[[BaseException], None],
        patience: float,
    ) -> None:
        self._threads = threads
        self._partial = partial
        self._advanced = advanced
        self._failed = failed
        self._patience = patience
        self._gathered: list[bytes] = []
        self._size = 0
        self._writing: asyncio.TimerHandle | None = None
        self._syncing: asyncio.TimerHandle | None = None
        """The alarm of the job that runs, None when none does."""
        self._error: BaseException | None = None
        self._changed = asyncio.Event()

    def put(self, data: bytes) -> None:
        """Takes the next bytes; raises what writing earlier ones raised."""
        if self._error is not None:
            raise self._error
        self._gathered.append(data)
        self._size += len(data)
        self._go_on()

    @property
    def full(self) -> bool:
        return self._size >= GATHERED or self._partial.unsynced > UNSYNCED

    async def room(self) -> None:
        """Waits until more may be put; raises what writing raised."""
        await self._until(lambda: not self.full)

    async def drain(self) -> None:
        """Waits until all that was put is written; raises what writing raised."""
        await self._until(lambda: not (self._writing or self._gathered))

    async def idle(self) -> None:
        """Waits until no job of ours is in a thread any more; puts no more in. Never raises."""
        self._gathered.clear()
        self._size = 0
        while self._writing or self._syncing:
            self._changed.clear()
            await self._changed.wait()

    async def _until(self, reached: Callable[[], bool]) -> None:
        while self._error is None and not reached():
            self._changed.clear()
            await self._changed.wait()
        if self._error is not None:
            raise self._error

    def _go_on(self) -> None:
        if self._error is not None:
            return
        if self._gathered and not self._writing:
            batch, self._gathered, self._size = self._gathered, [], 0
            self._writing = self._watch()
            self._threads.write(bound(self._partial.write, batch), self._written)
        if self._partial.unsynced and not self._syncing:
            self._syncing = self._watch()
            self._threads.write(self._partial.sync, self._synced)

    def _watch(self) -> asyncio.TimerHandle:
        """Counts a job that does not end in time as failed, though it may still be running."""
        error = DiskTrouble(f"a write has not ended for {self._patience:g} s")
        return asyncio.get_running_loop().call_later(self._patience, self._report, error)

    def _written(self, error: BaseException | None) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        self._report(error)
        if self._error is None:
            self._advanced(self._partial.readable)

    def _synced(self, error: BaseException | None) -> None:
        if self._syncing is not None:
            self._syncing.cancel()
            self._syncing = None
        self._report(error)

    def _report(self, error: BaseException | None) -> None:
        if error is not None and self._error is None:
            self._error = error
            self._failed(error)
        self._changed.set()
        self._go_on()
