"""The fill's side of the origin: opening, resuming where it broke, reading.

A failure is tried again with backoff and jitter, at once when a newer origin is offered; new bytes
reset the backoff. The object is the same only if its attributes say so.
"""

import asyncio

from mender_gateway.cache.context import Context
from mender_gateway.cache.demand import Demand
from mender_gateway.cache.errors import (
    Changed,
    GaveUp,
    OriginRefused,
    SourceBroken,
    Unresumable,
)
from mender_gateway.cache.origin import Attributes, Source, same_object
from mender_gateway.cache.retry import delay
from mender_gateway.cache.settings import Kind

_END_PATIENCE = 5.0
"""How long the clean end is waited for once all declared bytes are there, and a close."""


class Download:
    """One per fill; runs on the event loop."""

    def __init__(self, context: Context, demand: Demand) -> None:
        self._context = context
        self._demand = demand
        self._failures = 0
        """Openings and downloads that failed since the last new byte."""
        self._last_byte = asyncio.get_running_loop().time()

    async def begin(self) -> Source:
        """The object from its first byte on; retries temporary failures while devices wait.

        Raises OriginRefused; SourceBroken with the origin's own exception as cause.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._context.settings.open_patience
        while True:
            try:
                source = await self.open(0, None)
                if source.offset == 0:
                    return source
                await close(source)
                raise SourceBroken(f"asked for offset 0, the origin sent {source.offset}")
            except SourceBroken as error:
                if loop.time() >= deadline:
                    raise
                self.failed(str(error))
            await self._pause()

    async def open(self, offset: int, validator: str | None) -> Source:
        """Opens the newest origin; raises OriginRefused, or SourceBroken for all other errors."""
        while True:
            origin = self._demand.origin
            try:
                async with asyncio.timeout(self._context.settings.give_up):
                    return await origin.open(offset, validator)
            except OriginRefused:
                if origin is self._demand.origin:
                    raise
            except Exception as error:
                raise SourceBroken(f"the origin cannot be opened: {error!r}") from error

    async def resume(self, attributes: Attributes, received: int) -> Source:
        """The same object from `received` on, or from before it.

        Raises Unresumable, Changed, and GaveUp when no byte has come for too long.
        """
        loop, patience = asyncio.get_running_loop(), self._context.settings.give_up
        if received and attributes.validator is None:
            raise Unresumable("the download broke, and no validator allows to resume it")
        while True:
            if self._failures:
                await self._pause()
            if loop.time() - self._last_byte >= patience:
                raise GaveUp(f"no byte from the origin for {patience:g} s")
            try:
                source = await self.open(received, attributes.validator)
            except (OriginRefused, SourceBroken) as error:
                self.failed(str(error))
                continue
            if not fits(source, attributes, received):
                await close(source)
                raise Changed("the origin has another object now")
            if source.offset <= received:
                return source
            await close(source)
            self.failed(f"asked for offset {received}, the origin sent {source.offset}")

    def failed(self, text: str) -> None:
        self._failures += 1
        self._context.tell(Kind.FILL_BROKE, self._demand.object_id, text)

    async def _pause(self) -> None:
        await self._demand.pause(delay(self._failures - 1, self._context.luck()))

    async def read(self, source: Source) -> bytes | memoryview:
        """The next bytes, empty at the clean end; raises SourceBroken when broken or silent."""
        settings = self._context.settings
        # what could not be resumed is waited for as long as can be
        resumable = source.attributes.validator is not None
        data = await self._read(source, settings.silence if resumable else settings.give_up)
        if data:
            self._last_byte = asyncio.get_running_loop().time()
            self._context.tally.origin_bytes += len(data)
        return data

    def progressed(self) -> None:
        """Bytes came that were not here yet."""
        self._failures = 0

    async def surplus(self, source: Source) -> bool:
        """Whether more comes after the declared end.

        An end that is not clean does not matter any more: all declared bytes are here.
        """
        try:
            return bool(await self._read(source, _END_PATIENCE))
        except SourceBroken:
            return False

    async def _read(self, source: Source, patience: float) -> bytes | memoryview:
        try:
            async with asyncio.timeout(patience):
                return await source.read()
        except Exception as error:
            raise SourceBroken(f"the origin's download broke: {error!r}") from error


def fits(source: Source, attributes: Attributes, at: int) -> bool:
    """Whether the source still is the object of which we have `at` bytes."""
    if at == 0 and attributes.validator is None:
        return source.attributes.length == attributes.length
    return same_object(attributes, source.attributes, range_honoured=source.offset > 0)


async def close(source: Source) -> None:
    """Closes a source that is done with; how it takes that is of no interest."""
    try:
        async with asyncio.timeout(_END_PATIENCE):
            await source.aclose()
    except Exception:
        return
