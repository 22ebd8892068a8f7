"""The entries that are open in this process, and when they are let go.

An entry pins its object against eviction by every process, so it stays open only while it is read,
filled, or was used within the last seconds. One in use is compared with the directory now and then:
if the object was removed or replaced, the next acquire looks again while present readers keep what
they have. All of it runs on the event loop; disk calls are left to threads.
"""

import asyncio
from functools import partial as bound

from mender_gateway.cache.entry import Entry
from mender_gateway.cache.errors import DiskTrouble
from mender_gateway.cache.origin import Attributes
from mender_gateway.cache.settings import CacheSettings
from mender_gateway.cache.store import Store
from mender_gateway.cache.threads import Threads


class Table:
    def __init__(self, store: Store, threads: Threads, settings: CacheSettings) -> None:
        self._store = store
        self._threads = threads
        self._settings = settings
        self._entries: dict[str, Entry] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._checks: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Future[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, object_id: str) -> Entry | None:
        """The entry that new readers may use."""
        entry = self._entries.get(object_id)
        return None if entry is None or entry.broken is not None else entry

    def add(
        self, object_id: str, attributes: Attributes, fd: int, *, mark: int, finished: bool
    ) -> Entry:
        """Takes the descriptor."""
        self.forget(object_id)
        entry = Entry(object_id, attributes, fd, self._let_go, finished=finished, mark=mark)
        self._entries[object_id] = entry
        self._let_go(entry)
        return entry

    def ended(self, entry: Entry) -> None:
        """Its fill or following is over: it stays if it is a finished object, else it goes."""
        if entry.finished:
            self._let_go(entry)
        else:
            self._retire(entry)

    def forget(self, object_id: str) -> None:
        """The next acquire looks in the directory again."""
        entry = self._entries.get(object_id)
        if entry is not None:
            self._retire(entry)

    def has_place(self) -> bool:
        """Whether one more entry may be opened, after letting the longest unused go if need be."""
        if len(self._entries) < self._settings.open_entries:
            return True
        idle = [entry for entry in self._entries.values() if entry.idle]
        if idle:
            self._retire(min(idle, key=lambda entry: entry.idle_since))
        return bool(idle)

    async def release_idle(self) -> None:
        """Lets all unused entries go and waits until their locks are gone."""
        for entry in [entry for entry in self._entries.values() if entry.idle]:
            self._retire(entry)
        closing = set(self._closing)
        if closing:
            await asyncio.wait(closing, timeout=self._settings.lock_patience)

    async def close(self) -> None:
        """Closes what nobody reads; the rest closes when it is released."""
        if self._sweep is not None:
            self._sweep.cancel()
        for entry in list(self._entries.values()):
            self._retire(entry)
        if self._checks:
            await asyncio.wait(self._checks, timeout=self._settings.lock_patience)
        self._closed = True

    # -- letting go --------------------------------------------------------------------------

    def _let_go(self, entry: Entry) -> None:
        """Called when an entry has no reader; never waits."""
        if entry.retired:
            self._retire(entry)
        elif self._sweep is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(self._settings.linger, self._let_idle_go)

    def _let_idle_go(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._settings.linger
        waiting = None
        for entry in [entry for entry in self._entries.values() if entry.idle]:
            if entry.idle_since <= oldest:
                self._retire(entry)
            else:
                waiting = min(waiting or entry.idle_since, entry.idle_since)
        if waiting is not None:
            self._sweep = loop.call_at(waiting + self._settings.linger, self._let_idle_go)

    def _retire(self, entry: Entry) -> None:
        if self._entries.get(entry.object_id) is entry:
            del self._entries[entry.object_id]
        entry.retired = True
        if entry.readers == 0 and not entry.closed:
            fd = entry.take_fd()
            if self._closed:
                self._store.disk.close(fd)  # the threads are gone
            else:
                closing = self._threads.later(bound(self._store.disk.close, fd))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    # -- in use ------------------------------------------------------------------------------

    def used(self, entry: Entry) -> None:
        """Notes that it is served, and compares it with the directory if that was long ago."""
        now = asyncio.get_running_loop().time()
        if now - entry.checked < self._settings.check_every:
            return
        entry.checked = now
        served = now - entry.touched >= self._settings.touch_every
        if served:
            entry.touched = now
        task = asyncio.get_running_loop().create_task(self._check(entry, served))
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)

    async def _check(self, entry: Entry, served: bool) -> None:
        entry.readers += 1  # keeps the descriptor open
        try:
            store, object_id, fd = self._store, entry.object_id, entry.fd
            there = await self._threads.run(lambda: store.touch(object_id, fd, served=served))
        except DiskTrouble:
            there = True
        finally:
            entry.released()
        if not there:
            self._retire(entry)
