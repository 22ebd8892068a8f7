"""A scripted origin for tests of the cache: sends, stalls, breaks, refuses and changes on command.

By default it sends all of its content. `allow(n)` holds it before byte n, so that a test decides
how far a fill gets; `script` names what goes wrong at the next openings, one entry per opening.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mender_gateway.cache import Attributes, Bypass, Cache, FillBroken, OriginRefused, Reader


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def object_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


class Broken(Exception):
    """What the scripted origin raises when its connection breaks."""


@dataclass(frozen=True, slots=True)
class Act:
    """What one opening does other than to send everything."""

    hold: asyncio.Event | None = None
    """Answer only once this is set."""
    refuse: Exception | None = None
    """Raise this at opening, wrapped as a refusal."""
    fail: Exception | None = None
    """Raise this at opening, as a temporary failure."""
    break_at: int | None = None
    """Break before this byte of the object."""
    end_at: int | None = None
    """End cleanly before this byte."""
    ignore_range: bool = False
    surplus: bytes = b""
    """Sent after the last byte."""
    shift: int = 0
    """Answer from so many bytes behind the offset that was asked for."""


class ScriptedSource:
    def __init__(self, origin: "ScriptedOrigin", act: Act, offset: int) -> None:
        self._origin = origin
        self._act = act
        self._content = origin.content + act.surplus
        self.attributes = origin.attributes
        self.offset = offset
        self._at = offset
        self._cuts = origin.cuts

    async def read(self) -> bytes | memoryview:
        origin, act = self._origin, self._act
        end = len(self._content)
        if self._cuts != origin.cuts:
            raise Broken("cut")
        if act.break_at is not None and self._at >= act.break_at:
            raise Broken(f"broke at {self._at}")
        if self._at >= end or (act.end_at is not None and self._at >= act.end_at):
            return b""
        await origin.allowed_beyond(self._at)
        if self._cuts != origin.cuts:
            raise Broken("cut")
        stops = [end, self._at + origin.piece, origin.allowed, act.break_at, act.end_at]
        stop = min(s for s in stops if s is not None)
        data = self._content[self._at : stop]
        self._at = stop
        origin.sent += len(data)
        return memoryview(data) if origin.as_views else data

    async def aclose(self) -> None:
        self._origin.closed += 1


class ScriptedOrigin:
    def __init__(
        self,
        data: bytes,
        *,
        etag: str | None = '"v1"',
        last_modified: str | None = "Mon, 05 Jan 2026 00:00:00 GMT",
        script: list[Act] | None = None,
        piece: int = 65536,
        allowed: int | None = None,
    ) -> None:
        self.content = data
        self.attributes = Attributes(
            len(data), "application/vnd.mender-artifact", etag, last_modified
        )
        self.script = deque(script or [])
        self.piece = piece
        self.allowed = allowed
        self.as_views = False
        self.opens: list[tuple[int, str | None]] = []
        self.sent = 0
        self.closed = 0
        self.cuts = 0
        self._moved = asyncio.Event()

    async def open(self, offset: int, validator: str | None) -> ScriptedSource:
        self.opens.append((offset, validator))
        self._moved.set()
        act = self.script.popleft() if self.script else Act()
        if act.hold is not None:
            await act.hold.wait()
        if act.refuse is not None:
            raise OriginRefused(act.refuse)
        if act.fail is not None:
            raise act.fail
        same = validator is not None and validator == self.attributes.validator
        start = offset if same and not act.ignore_range else 0
        return ScriptedSource(self, act, start + act.shift)

    def allow(self, allowed: int | None) -> None:
        """Bytes below `allowed` may be sent; None: all."""
        self.allowed = allowed
        self._moved.set()

    def cut(self) -> None:
        """Breaks every open download."""
        self.cuts += 1
        self._moved.set()

    def replace(self, data: bytes, etag: str) -> None:
        """Another object in the same place; downloads that are open break."""
        self.content = data
        self.attributes = dataclasses.replace(self.attributes, length=len(data), etag=etag)
        self.cut()

    async def allowed_beyond(self, offset: int) -> None:
        cuts = self.cuts
        while self.allowed is not None and self.allowed <= offset and cuts == self.cuts:
            self._moved.clear()
            await self._moved.wait()


async def read_all(reader: Reader, start: int = 0, end: int | None = None) -> bytes:
    """Reads a range as a device's answer is made: wait, then pread what is there."""
    end = reader.attributes.length if end is None else end
    parts = []
    while start < end:
        ready = min(end, await reader.wait(start))
        data = os.pread(reader.fd, ready - start, start)
        assert data, "the file is shorter than its mark"
        parts.append(data)
        start += len(data)
    return b"".join(parts)


async def fetch(cache: Cache, name: str, origin: ScriptedOrigin) -> bytes:
    async with await cache.acquire(object_id(name), origin) as reader:
        return await read_all(reader)


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Polls a condition; fails the test when it does not come true in time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


@dataclass(slots=True)
class Delivery:
    """What one device received, and which way its bytes came."""

    data: bytearray
    cached: int = 0
    around: int = 0
    aborted: bool = False


async def deliver(
    cache: Cache, name: str, origin: ScriptedOrigin, *, piece: int = 300_000
) -> Delivery:
    """Serves a device as the gateway does: through the cache, or from its own offset around it.

    Bytes once delivered are never delivered again; an object that must not be continued aborts.
    """
    delivery = Delivery(bytearray())
    try:
        reader = await cache.acquire(object_id(name), origin)
    except Bypass:
        await _around(delivery, origin)
        return delivery
    with contextlib.closing(_Released(reader)):
        length = reader.attributes.length
        while len(delivery.data) < length:
            at = len(delivery.data)
            try:
                ready = await reader.wait(at)
                data = os.pread(reader.fd, min(piece, ready - at), at)
            except FillBroken as broken:
                if broken.resumable:
                    await _around(delivery, origin)
                else:
                    delivery.aborted = True
                return delivery
            delivery.data += data
            delivery.cached += len(data)
    return delivery


@dataclass(frozen=True, slots=True)
class _Released:
    reader: Reader

    def close(self) -> None:
        self.reader.release()


async def _around(delivery: Delivery, origin: ScriptedOrigin) -> None:
    at = len(delivery.data)
    data = origin.content[at:]
    delivery.data += data
    delivery.around += len(data)
