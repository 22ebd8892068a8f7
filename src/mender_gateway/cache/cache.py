"""The cache as its users see it: acquire an object, read it, give it back.

A table of open entries makes a repeated acquire cheap: no disk call, no thread. What is not in the
table is looked up once per object, however many ask: finished objects are opened, missing ones are
filled by a task that belongs to the cache, and what another process fills is followed. When the
disk fails, nothing new is stored for a while, callers are told to go around, and the next attempt
after that heals the cache if the disk has healed.
"""

import asyncio
import random
from collections.abc import Callable
from functools import partial as bound

from mender_gateway.cache.census import Census
from mender_gateway.cache.context import Context
from mender_gateway.cache.demand import Demand
from mender_gateway.cache.disk import Disk
from mender_gateway.cache.entry import Entry, Outcome, Reader
from mender_gateway.cache.errors import Bypass, DiskTrouble, FillBroken, OriginRefused
from mender_gateway.cache.fill import Fill
from mender_gateway.cache.follow import follow
from mender_gateway.cache.followed import Followed
from mender_gateway.cache.layout import Mark, checked_id
from mender_gateway.cache.origin import Attributes, Origin, VerifierFactory
from mender_gateway.cache.partial import Partial
from mender_gateway.cache.settings import CacheSettings, Event, Figures, Kind
from mender_gateway.cache.store import Finished, Store
from mender_gateway.cache.table import Table
from mender_gateway.cache.threads import Threads
from mender_gateway.cache.trouble import Trouble

_TRIES = 3
_CLOSING = 10.0


class Cache:
    """One per process and directory; owns its threads, fills and descriptors until `close`."""

    def __init__(
        self,
        path: str,
        *,
        settings: CacheSettings,
        report: Callable[[Event], None],
        disk: Disk | None = None,
        luck: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._report = report
        self.path = path
        self._store = Store(disk or Disk(), path)
        self._threads = Threads(settings.disk_patience)
        self._table = Table(self._store, self._threads, settings)
        self._demands: dict[str, tuple[Demand, asyncio.Task[None]]] = {}
        self._shunned: dict[str, tuple[float, str]] = {}
        """Objects for which there was no room: until when, and why."""
        self._trouble = Trouble(self._store.layout.path, settings, report)
        self._stalled: dict[str, Mark] = {}
        """Marks of other processes that showed no life, while they stand still."""
        self._swept = 0.0
        self._closed = False
        self._census = Census(self._store, self._threads, settings)
        self._context = Context(
            self._store,
            self._threads,
            settings,
            report,
            self._enter,
            self._table.release_idle,
            self._trouble.note,
            self._trouble.over,
            luck,
        )

    # -- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Makes the layout and clears junk; an unusable directory is noted, and no error.

        Waits for no disk that does not answer; clearing that takes long goes on by itself.
        """
        loop, patience = asyncio.get_running_loop(), self._settings.look_patience
        self._swept = loop.time()
        try:
            await self._threads.run(self._store.ensure, patience=patience)
            sweep = bound(self._store.sweep, self._settings.note_age)
            sweeping = loop.create_task(self._threads.run_long(sweep))
            self._context.endings.add(sweeping)
            sweeping.add_done_callback(self._context.endings.discard)
            sweeping.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.wait({sweeping}, timeout=patience)
            if sweeping.done():
                sweeping.result()
            await self._census.fresh()
        except DiskTrouble as error:
            self._trouble.note(str(error))

    async def close(self) -> None:
        """Ends fills (their bytes stay) and lets all entries go; readers must be released."""
        self._closed = True
        tasks = [task for _, task in self._demands.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSING)
        if self._context.endings:
            await asyncio.wait(self._context.endings, timeout=_CLOSING)
        for demand, _ in self._demands.values():
            demand.fail(Bypass("closed", "the cache is closing"))
        self._census.close()
        await self._table.close()
        await self._threads.settle(_CLOSING)
        self._threads.close()

    @property
    def trouble(self) -> str | None:
        """Why the disk is not used at the moment, None when it is."""
        return self._trouble.text

    async def probe(self) -> str | None:
        """Whether the directory can be written now: None, or what stands in the way."""
        try:
            await self._threads.run(self._store.probe)
        except DiskTrouble as error:
            self._trouble.note(str(error))
        else:
            self._trouble.over()
        return self._trouble.text

    # -- objects -----------------------------------------------------------------------------

    def acquire_open(self, object_id: str, origin: Origin | None = None) -> Reader | None:
        """A reader on an entry that is open already, else None; never waits.

        `origin` replaces an older one should the fill have to ask again.
        """
        entry = self._table.get(object_id)
        if entry is None:
            return None
        if entry.finished:
            self._context.tally.hits += 1
            self._table.used(entry)
            return entry.reader("hit")
        self._context.tally.joins += 1
        running = self._demands.get(object_id)
        if origin is not None and running is not None:
            running[0].offer(origin)
        return entry.reader("joined")

    def entry(self, object_id: str) -> Entry | None:
        """The object's open entry, to be looked at: how far it is here. Never waits."""
        return self._table.get(object_id)

    async def acquire(
        self, object_id: str, origin: Origin, verifier: VerifierFactory | None = None
    ) -> Reader:
        """A reader on the object, finished or being filled; starts the fill if nobody has.

        Returns once the attributes are known. Raises Bypass when the object cannot be cached now,
        OriginRefused when the origin refuses it, and what the origin's opening raised when that
        went on failing. Cancelling it disturbs no one else.
        """
        for _ in range(_TRIES):
            reader = self.acquire_open(object_id, origin)
            if reader is not None:
                return reader
            demand, started = await self._demand(checked_id(object_id), origin, verifier)
            try:
                entry = await demand.entry_pinned()
            except Bypass as error:
                raise self._bypassed(error.reason, str(error)) from None
            except OriginRefused as error:
                raise OriginRefused(error.original) from error.original
            except FillBroken:
                continue  # it ended before anyone read of it: look again
            return Reader(entry, self._outcome(demand, started))
        raise self._bypassed("busy", "the object changes faster than it can be looked at")

    def _outcome(self, demand: Demand, started: bool) -> Outcome:
        tally = self._context.tally
        if demand.outcome == "hit":
            tally.hits += 1
            return "hit"
        if demand.outcome == "miss" and started:
            tally.misses += 1
            return "miss"
        tally.joins += 1
        return "joined"

    def _bypassed(self, reason: str, text: str) -> Bypass:
        self._context.tally.bypasses += 1
        return Bypass(reason, text)

    async def _demand(
        self, object_id: str, origin: Origin, verifier: VerifierFactory | None
    ) -> tuple[Demand, bool]:
        """The running demand for the object, or a new one (True).

        One that has made its entry known, and has no entry in the table, is ending: it is waited
        for.
        """
        loop = asyncio.get_running_loop()
        while (running := self._demands.get(object_id)) is not None:
            demand, task = running
            if not demand.known.done():
                demand.offer(origin)
                return demand, False
            patience = 0 if self._trouble.resting else self._settings.look_patience
            await asyncio.wait({task}, timeout=patience)
            if not task.done():
                raise self._bypassed("disk", "an earlier fill of the object has not ended")
        if self._closed:
            raise self._bypassed("closed", "the cache is closed")
        until, text = self._shunned.get(object_id, (0.0, ""))
        if loop.time() < until:
            raise self._bypassed("room", text)
        if len(self._demands) >= self._settings.open_entries or not self._table.has_place():
            raise self._bypassed("busy", "too many objects are open")
        demand = Demand(object_id, origin, verifier)
        self._demands[object_id] = demand, loop.create_task(self._supply(demand))
        return demand, True

    async def _supply(self, demand: Demand) -> None:
        """Everything that is done to have one object here; ends with its fill."""
        object_id = demand.object_id
        try:
            match await self._look(demand):
                case Finished() as finished:
                    attributes = finished.meta.attributes
                    self._enter(demand, attributes, finished.fd, "hit", finished=True)
                case Partial() as partial:
                    await Fill(self._context, demand, partial).run()
                case Followed() as followed:
                    demand.stalled = self._stalled.get(object_id)
                    taken = await follow(self._context, demand, followed)
                    if taken is not None:
                        await Fill(self._context, demand, taken).run()
        except DiskTrouble as error:
            self._trouble.note(str(error))
            demand.fail(Bypass("disk", str(error)))
        except asyncio.CancelledError:
            demand.fail(Bypass("closed", "the cache is closing"))
            raise
        except Exception as error:
            demand.fail(error)
            if demand.entry is not None:
                demand.entry.break_off(FillBroken(f"unexpected: {error!r}", resumable=True))
            if not isinstance(error, Bypass | FillBroken):
                self._report(Event(Kind.TROUBLE, f"unexpected: {error!r}", object_id))
        finally:
            self._demands.pop(object_id, None)
            self._remember_refusal(demand)
            if demand.entry is not None:
                self._table.ended(demand.entry)

    async def _look(self, demand: Demand) -> Finished | Partial | Followed:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.stopped_elsewhere
        object_id, patience = demand.object_id, self._settings.look_patience
        if self._threads.stuck:
            raise Bypass("disk", self._trouble.text or "the disk does not answer")
        if self._trouble.resting:
            finished = await self._threads.run(
                lambda: self._store.open_object(object_id), discard=self._drop, patience=patience
            )
            if finished is None:
                raise Bypass("disk", self._trouble.text or "the disk failed")
            return finished
        while True:
            found = await self._threads.run(lambda: self._store.look(object_id), discard=self._drop)
            if found is not None:
                self._sweep_now_and_then()
                return found
            if loop.time() > deadline:
                raise Bypass("busy", "the process that fills has not said what the object is")
            await asyncio.sleep(self._settings.poll)

    def _sweep_now_and_then(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._swept >= self._settings.sweep_every:
            self._swept = now
            self._threads.later(lambda: self._store.sweep(self._settings.note_age))

    def _drop(self, found: Finished | Partial | Followed | None) -> None:
        match found:
            case Finished():
                self._store.disk.close(found.fd)
            case Partial() | Followed():
                found.close()

    def _remember_refusal(self, demand: Demand) -> None:
        now = asyncio.get_running_loop().time()
        for object_id in [i for i, (until, _) in self._shunned.items() if until < now]:
            del self._shunned[object_id]
        if not demand.known.done():
            demand.fail(Bypass("busy", "the object could not be had"))
        if demand.stalled is not None:
            self._stalled[demand.object_id] = demand.stalled
        else:
            self._stalled.pop(demand.object_id, None)
        error = demand.known.exception()
        if isinstance(error, Bypass) and error.reason == "room":
            until = now + self._settings.no_room_pause
            self._shunned[demand.object_id] = until, str(error)

    def _enter(
        self,
        demand: Demand,
        attributes: Attributes,
        fd: int,
        outcome: Outcome,
        *,
        mark: int = 0,
        finished: bool = False,
    ) -> Entry:
        entry = self._table.add(demand.object_id, attributes, fd, mark=mark, finished=finished)
        demand.publish(entry, outcome)
        return entry

    async def peek(self, object_id: str) -> Attributes | None:
        """The attributes of a finished object, without opening it; None when there is none."""
        entry = self._table.get(checked_id(object_id))
        if entry is not None and entry.finished:
            return entry.attributes
        try:
            meta = await self._threads.run(lambda: self._store.peek(object_id))
        except DiskTrouble:
            return None
        return meta.attributes if meta is not None else None

    async def remove(self, object_id: str, reader: Reader | None = None) -> bool:
        """Removes a finished object, also while it is served (readers keep their bytes).

        With `reader`, held until this returns: the object that it reads, and none that has come
        in its place. Whether there was one. Raises DiskTrouble.
        """
        self._table.forget(checked_id(object_id))
        only = reader.fd if reader is not None else None
        return await self._threads.run(
            lambda: self._store.remove_object(object_id, even_if_served=True, only=only)
        )

    # -- notes -------------------------------------------------------------------------------

    async def remember(self, object_id: str, note: bytes) -> None:
        """Keeps the newest origin link with the partial object; a failing disk is no error."""
        checked_id(object_id)
        try:
            await self._threads.run(lambda: self._store.remember(object_id, note))
        except DiskTrouble:
            return

    async def recall(self, object_id: str) -> bytes | None:
        """The newest note of any process, None when there is none."""
        checked_id(object_id)
        try:
            return await self._threads.run(lambda: self._store.recall(object_id))
        except DiskTrouble:
            return None

    # -- figures -----------------------------------------------------------------------------

    def figures(self) -> Figures:
        """What is known now, without waiting; see Figures for what may be older."""
        tally, count = self._context.tally, self._census.last
        return Figures(
            fills=tally.fills,
            open_entries=len(self._table),
            hits=tally.hits,
            misses=tally.misses,
            joins=tally.joins,
            bypasses=tally.bypasses,
            evictions=tally.evictions,
            commits=tally.commits,
            rejections=tally.rejections,
            origin_bytes=tally.origin_bytes,
            objects=count.objects,
            stored_bytes=count.stored_bytes,
            partials=count.partials,
            partial_bytes=count.partial_bytes,
            reserved_bytes=count.reserved_bytes,
            free_bytes=count.free_bytes,
            usable=self._trouble.text is None,
        )

    async def recent_figures(self) -> Figures:
        """The directory's part seconds old at most, unless counting takes long; raises DiskTrouble.

        Cheap, however often it is called.
        """
        await self._census.fresh()
        return self.figures()

    async def refresh_figures(self) -> Figures:
        """Counts the directory; raises DiskTrouble when it cannot."""
        await self._census.take()
        return self.figures()
