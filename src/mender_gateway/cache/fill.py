"""One download into the cache, from the lock to the commit.

A fill belongs to the cache: readers come and go without any effect on it. It opens the origin,
reserves room, makes the object known, and writes what arrives; when the origin breaks it resumes
where it stopped, until nothing has arrived for 15 minutes. Found bytes of a dead filler are
verified while the origin is already being asked for the rest. The last byte becomes readable only
after the origin ended cleanly and the verifier agreed. Every way in which a fill can end is one
exception, and `run` is the one place that says what each means for the readers and for the bytes.
"""

import asyncio
import threading
from collections.abc import Callable
from functools import partial as bound

from mender_gateway.cache.context import Context
from mender_gateway.cache.demand import Demand
from mender_gateway.cache.download import Download, close, fits
from mender_gateway.cache.errors import (
    Bypass,
    Changed,
    DiskTrouble,
    FillBroken,
    GaveUp,
    LockBusy,
    NoRoom,
    OriginRefused,
    PartialLost,
    SourceBroken,
    Unresumable,
    VerificationFailed,
)
from mender_gateway.cache.origin import Attributes, Source
from mender_gateway.cache.partial import Partial
from mender_gateway.cache.room import reserve
from mender_gateway.cache.settings import Kind
from mender_gateway.cache.writer import Writer

_LOOK_FOR_ROOM = 0.5
"""Seconds between two looks for room while others use it."""


class Fill:
    """Owns a locked partial from the beginning to the end of `run`."""

    def __init__(self, context: Context, demand: Demand, partial: Partial) -> None:
        self._context = context
        self._demand = demand
        self._partial = partial
        self._attributes = Attributes(0)
        self._received = 0
        """Bytes taken from the origin or kept; what the writer has not written yet included."""
        self._download = Download(context, demand)
        self._writer: Writer | None = None
        self._keeping: asyncio.Task[None] | None = None
        """Verifies the bytes that were found."""
        self._stop = threading.Event()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set by the first error of a write or fdatasync."""
        self._failure.add_done_callback(lambda future: future.cancelled() or future.exception())

    async def run(self) -> None:
        """Fills, commits, and tells readers how it ended. Raises nothing but CancelledError."""
        living = asyncio.get_running_loop().create_task(self._live())
        self._context.tally.fills += 1
        try:
            await self._fill_while_the_disk_works()
        except (OriginRefused, NoRoom, LockBusy) as error:
            self._refused(error)
        except SourceBroken as error:
            self._demand.fail(error.__cause__ or error)
        except DiskTrouble as error:
            self._context.trouble(str(error))
            self._demand.fail(Bypass("disk", str(error)))
            broken = FillBroken(f"the cache's disk failed: {error}", resumable=True)
            self._break(broken, sound=self._partial.durable)
        except PartialLost as error:
            self._tell(Kind.LOST, self._with_size(error))
            self._demand.fail(FillBroken(str(error), resumable=True))
            self._break(FillBroken(str(error), resumable=True))
        except VerificationFailed as error:
            self._context.tally.rejections += 1
            await self._reject(Kind.REJECTED, str(error))
        except Unresumable as error:
            await self._reject(Kind.GAVE_UP, str(error))
        except Changed as error:
            await self._reject(Kind.CHANGED, str(error), changed=True)
        except GaveUp as error:
            self._tell(Kind.GAVE_UP, str(error))
            self._break(FillBroken(str(error), resumable=False))
            await self._quietly(self._partial.abort)
        except asyncio.CancelledError:
            self._demand.fail(Bypass("closed", "the cache is closing"))
            self._break(FillBroken("the cache is closing", resumable=False))
            raise
        finally:
            living.cancel()
            ending = asyncio.get_running_loop().create_task(self._give_back())
            self._context.endings.add(ending)
            ending.add_done_callback(self._context.endings.discard)
            await asyncio.shield(ending)

    def _refused(self, error: OriginRefused | NoRoom | LockBusy) -> None:
        match error:
            case OriginRefused():
                self._demand.fail(error)
            case NoRoom():
                self._tell(Kind.NO_ROOM, str(error))
                self._demand.fail(Bypass("room", str(error)))
            case LockBusy():
                self._demand.fail(Bypass("lock", str(error)))
        self._break(FillBroken(str(error), resumable=True))

    def _with_size(self, text: object) -> str:
        """For what is lost: what it has cost the uplink."""
        partial = self._partial
        return f"{text}; {max(self._received, partial.position, partial.found)} bytes had come"

    def _tell(self, kind: Kind, text: str) -> None:
        self._context.tell(kind, self._demand.object_id, text)

    def _break(self, error: FillBroken, *, sound: int | None = None) -> None:
        if self._demand.entry is not None:
            self._demand.entry.break_off(error, sound=sound)

    async def _reject(self, kind: Kind, text: str, *, changed: bool = False) -> None:
        """Aborts all readers and throws the bytes away."""
        self._tell(kind, self._with_size(text))
        self._break(FillBroken(text, resumable=False, changed=changed))
        self._demand.fail(FillBroken(text, resumable=False, changed=changed))
        if self._writer is not None:
            await self._writer.idle()
        await self._quietly(self._partial.abort)
        await self._quietly(self._partial.discard)

    async def _quietly(self, job: Callable[[], None]) -> None:
        try:
            await self._context.threads.run(job)
        except DiskTrouble as error:
            self._context.trouble(str(error))

    async def _give_back(self) -> None:
        """Waits for the jobs in threads before it closes what they use."""
        await self._stop_keeping()
        if self._writer is not None:
            await self._writer.idle()
        await self._quietly(self._partial.leave)
        self._context.tally.fills -= 1

    async def _live(self) -> None:
        """Shows followers that this filler lives while no bytes come."""
        while True:
            await asyncio.sleep(self._context.settings.beat)
            try:
                await self._context.threads.run(self._partial.beat)
            except DiskTrouble:
                pass  # the next write says so too

    def _failed(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    async def _fill_while_the_disk_works(self) -> None:
        """Fills; a failing write ends it at once, whatever it waits for."""
        filling = asyncio.get_running_loop().create_task(self._fill())
        filling.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await asyncio.wait({filling, self._failure}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not filling.done():
                filling.cancel()
                await asyncio.wait({filling})
        if not filling.cancelled() and filling.exception() is None:
            return
        if self._failure.done():
            await self._failure
        await filling

    # -- from the beginning to the commit ----------------------------------------------------

    async def _fill(self) -> None:
        if self._partial.meta is None:
            source: Source | None = await self._first(None)
        else:
            source = await self._take_over(self._partial.meta.attributes)
        while self._received < self._attributes.length:
            if source is None:
                if self._received:
                    await self._the_writer.drain()
                source = await self._download.resume(self._attributes, self._received)
            try:
                await self._pump(source)
            except SourceBroken as error:
                self._download.failed(f"{error}; {self._received} bytes are here")
            finally:
                await close(source)
                source = None
        if source is not None:
            await close(source)
        await self._commit()

    async def _first(self, source: Source | None) -> Source:
        """Opens the object at its beginning, unless `source` already is; makes it known."""
        if source is None:
            source = await self._download.begin()
        try:
            await self._begin(source.attributes)
            await self._publish()
        except BaseException:
            await close(source)
            raise
        self._tell(Kind.FILL_STARTED, f"{source.attributes.length} bytes")
        return source

    async def _take_over(self, attributes: Attributes) -> Source | None:
        """Verifies the bytes found while the origin is asked for the rest.

        Devices are told of the object once the origin has confirmed it, or cannot be reached;
        nobody waits for the verification but who needs bytes behind it.
        """
        partial = self._partial
        await self._begin(attributes)
        self._keep()
        source = None
        try:
            if self._demand.entry is None and partial.claimed < attributes.length:
                try:
                    source = await self._download.open(partial.claimed, attributes.validator)
                except SourceBroken as error:
                    self._download.failed(str(error))
            if source is None or fits(source, attributes, partial.claimed):
                await self._publish()
                await self._kept()
                self._received = partial.position
                found = f"{partial.position} bytes were here of {partial.found} once written"
                self._tell(Kind.TAKEN_OVER, found)
                if source is not None and source.offset > partial.position:
                    await close(source)
                    source = None
                return source
            await self._stop_keeping()
            self._tell(Kind.CHANGED, self._with_size("the origin has another object now"))
        except BaseException:
            if source is not None:
                await close(source)
            raise
        if source.offset > 0:
            await close(source)
            source = None
        return await self._first(source)

    def _keep(self) -> None:
        loop = asyncio.get_running_loop()

        def progressed(position: int) -> None:
            loop.call_soon_threadsafe(self._advance, position)

        job = bound(self._partial.keep, progressed, self._stop)
        self._keeping = loop.create_task(self._context.threads.run_long(job))
        self._keeping.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _kept(self) -> None:
        """Waits for the verification; raises DiskTrouble when it does not get on."""
        patience = self._context.settings.disk_patience
        while self._keeping is not None and not self._keeping.done():
            before = self._partial.position
            await asyncio.wait({self._keeping}, timeout=patience)
            if not self._keeping.done() and self._partial.position == before:
                raise DiskTrouble(f"nothing could be read for {patience:g} s")
        if self._keeping is not None:
            await self._keeping

    async def _stop_keeping(self) -> None:
        self._stop.set()
        if self._keeping is not None:
            await asyncio.wait({self._keeping})

    async def _begin(self, attributes: Attributes) -> None:
        """Reserves room and makes the files ready; raises NoRoom, LockBusy, DiskTrouble."""
        context, partial = self._context, self._partial

        async def reserved() -> None:
            evicted = await context.threads.run(
                lambda: reserve(
                    context.store.disk, context.store.layout, partial, attributes, context.settings
                )
            )
            context.tally.evictions += len(evicted)
            for gone in evicted:
                context.tell(Kind.EVICTED, gone.object_id, f"{gone.size} bytes, {gone.kind}")

        loop = asyncio.get_running_loop()
        deadline = loop.time() + context.settings.room_patience
        while True:
            try:
                async with context.reserving:
                    try:
                        await reserved()
                    except NoRoom:
                        await context.release_idle()
                        await reserved()
                break
            except NoRoom as error:
                # Other processes let go of what they have open, and fills end.
                if error.hopeless or loop.time() >= deadline:
                    raise
            await asyncio.sleep(_LOOK_FOR_ROOM)
        self._attributes = attributes
        self._received = 0
        partial.verifier = self._demand.verifier(attributes) if self._demand.verifier else None
        self._writer = Writer(
            context.threads, partial, self._advance, self._failed, context.settings.disk_patience
        )

    @property
    def _the_writer(self) -> Writer:
        if self._writer is None:
            raise PartialLost("the fill has not begun")
        return self._writer

    async def _publish(self) -> None:
        if self._demand.entry is None:
            context, partial = self._context, self._partial
            fd = await context.threads.run(partial.open_reader, discard=context.store.disk.close)
            mark = partial.readable
            context.enter(self._demand, self._attributes, fd, "miss", mark=mark)

    def _advance(self, position: int) -> None:
        if self._demand.entry is not None:
            self._demand.entry.advance(position)

    async def _commit(self) -> None:
        context, partial = self._context, self._partial
        await self._the_writer.drain()
        await self._the_writer.idle()
        description = await context.threads.run_long(partial.finish)
        self._advance(partial.position)
        entry = self._demand.entry
        try:
            await context.threads.run_long(bound(partial.commit, description))
        except PartialLost as error:
            self._tell(Kind.LOST, self._with_size(error))
            return
        if entry is not None:
            entry.finish()
        context.tally.commits += 1
        context.healed()
        self._tell(Kind.COMMITTED, f"{self._attributes.length} bytes")

    async def _pump(self, source: Source) -> None:
        """Takes the source to its end; raises SourceBroken, or what writing raised."""
        writer, download, length = self._the_writer, self._download, self._attributes.length
        skip = self._received - source.offset
        while self._received < length:
            data = await download.read(source)
            if not data:
                raise SourceBroken(f"the origin ended after {self._received} of {length} bytes")
            if skip:
                data, skip = data[skip:], max(0, skip - len(data))
                if not data:
                    continue
            download.progressed()
            if self._received + len(data) > length:
                raise VerificationFailed(f"the origin sent more than the {length} bytes declared")
            self._received += len(data)
            writer.put(bytes(data))
            if writer.full:
                await writer.room()
        if await download.surplus(source):
            raise VerificationFailed(f"the origin sent more than the {length} bytes declared")
