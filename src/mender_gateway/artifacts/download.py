"""A local link is asked for: the artifact comes from the cache, or streams through.

The link's signature is checked first, then the whitelist, each time. With the cache an answer
follows the fill: whatever is readable leaves at once through the sender threads, the rest as it
arrives. When the cache cannot keep an artifact, or loses it half-way, the answer goes on from
storage at the byte where it stands, and comes back to the cache when that has the object after all;
a device never notices. After the head is out any other fault aborts. Where artifacts must be
signed, none that is not leaves whole, whichever way it comes.
"""

import errno
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from mender_gateway.artifacts.clock import Clock
from mender_gateway.artifacts.origin import CachedOrigin, Download, Refused, Seen, Storage
from mender_gateway.artifacts.ranges import (
    Full,
    NotModified,
    Partial,
    Unsatisfiable,
    choose,
    content_range,
    last_wanted,
    resumption,
)
from mender_gateway.artifacts.signing import LocalLink, Signer
from mender_gateway.artifacts.trust import Guarded, Trust
from mender_gateway.artifacts.verify import Verification
from mender_gateway.artifacts.way_back import WayBack
from mender_gateway.cache.cache import Cache
from mender_gateway.cache.entry import Reader
from mender_gateway.cache.errors import Bypass, DiskTrouble, FillBroken, OriginRefused
from mender_gateway.cache.origin import Attributes
from mender_gateway.config.settings import Limits
from mender_gateway.errors import (
    BadGateway,
    GatewayError,
    GatewayTimeout,
    MethodNotAllowed,
    Overloaded,
    PreconditionFailed,
    RangeNotSatisfiable,
)
from mender_gateway.http.exchange import Exchange
from mender_gateway.http.message import type_of_fields
from mender_gateway.net.bulk import FileTruncated

Source = Download | Guarded

_TRIES = 3
"""How often an answer whose head is not out starts anew because the object changed."""


@dataclass(slots=True)
class _Plan:
    """What to send: bytes `start` to `end` of the object."""

    status: int
    start: int
    end: int


class Downloads:
    """Handles requests for local artifact links; `cache` is None when it is not enabled."""

    def __init__(
        self,
        signer: Signer,
        storage: Storage,
        cache: Cache | None,
        seen: Seen,
        clock: Clock,
        limits: Limits,
        bypassed: Callable[[str], None],
        verification: Verification,
        trust: Trust,
    ) -> None:
        self._signer = signer
        self._storage = storage
        self._cache = cache
        self._seen = seen
        self._clock = clock
        self._limits = limits
        self._bypassed = bypassed
        self._verification = verification
        self._trust = trust

    async def download(self, exchange: Exchange) -> None:
        """Answer GET and HEAD for a local link (200, 206, 304, 416; 400 and 403 for bad links)."""
        request = exchange.request
        if request.method not in (b"GET", b"HEAD"):
            raise MethodNotAllowed
        start, single = resumption(request.fields)
        link = self._signer.read(
            request.target, self._clock.now(), range_start=start, single_range=single
        )
        self._storage.allowed(link.url)
        self._seen.note(link.object_id, link.url)
        try:
            for _ in range(_TRIES):
                if await self._answer(exchange, link):
                    return
            raise BadGateway("the artifact in storage changes while it is being fetched")
        except (BadGateway, GatewayTimeout, Overloaded) as error:
            if exchange.started or isinstance(error, Refused):
                raise
            # What may pass is no status: clients of the generations 4 and 5 take any but 200 and
            # 206 as final and fail their deployment, and try again after a broken connection.
            exchange.status = error.status
            raise ConnectionAbortedError(str(error)) from error

    async def _answer(self, exchange: Exchange, link: LocalLink) -> bool:
        """One attempt; False when the object changed before anything was sent."""
        cache = self._cache
        if cache is None:
            await self._stream(exchange, link)
            return True
        try:
            reader = await self._acquire(exchange, link, cache)
        except Bypass as bypass:
            self._bypassed(bypass.reason)
            await self._stream(exchange, link)
            return True
        except OriginRefused as refused:
            raise _as_error(refused.original) from refused
        except FillBroken as broken:
            return self._retry(exchange, broken)
        plan = None
        try:
            plan = self._begin(exchange, reader.attributes)
        finally:
            if plan is None:
                reader.release()
        if plan is None:
            await exchange.end()
            return True
        return await self._deliver(exchange, link, cache, reader, plan)

    async def _deliver(
        self, exchange: Exchange, link: LocalLink, cache: Cache, reader: Reader | None, plan: _Plan
    ) -> bool:
        """Send from the cache as far as it goes, past it where it does not, and back; as `_answer`.

        Takes the reader over.
        """
        while reader is not None:
            attributes = reader.attributes
            async with reader:
                try:
                    await self._follow(exchange, reader, plan)
                    break
                except OSError as error:
                    if isinstance(error, FileTruncated) or error.errno == errno.EIO:
                        # What cannot be read is not kept: the device resumes, from storage then.
                        with suppress(DiskTrouble):
                            await cache.remove(link.object_id, reader)
                    raise
                except FillBroken as broken:
                    if not broken.resumable or (broken.changed and exchange.started):
                        return self._retry(exchange, broken)
                    self._bypassed("fill")
            reader = await self._go_on(exchange, link, attributes, plan)
        await exchange.end()
        return True

    async def _acquire(self, exchange: Exchange, link: LocalLink, cache: Cache) -> Reader:
        """A reader on the object; raises what `Cache.acquire` does, BadGateway while rejected."""
        object_id = link.object_id
        origin = CachedOrigin(self._storage, self._seen, cache, object_id, link.url)
        for _ in range(_TRIES):
            reader = cache.acquire_open(object_id, origin)
            if reader is None:
                self._trust.refused(object_id)
                verifier = self._verification.of(object_id)
                reader = await exchange.patiently(cache.acquire(object_id, origin, verifier))
            if not self._trust.needed or reader.outcome != "hit":
                return reader
            try:
                if await self._trust.of_stored(object_id, reader.fd):
                    kept, reader = reader, None
                    return kept
                await cache.remove(object_id, reader)
            except DiskTrouble as error:
                raise Bypass("disk", str(error)) from error
            finally:
                if reader is not None:
                    reader.release()
        raise Bypass("busy", "the object is replaced by unsigned ones")

    def _retry(self, exchange: Exchange, broken: FillBroken) -> bool:
        if exchange.started:
            raise ConnectionAbortedError(f"fill broke off: {broken}") from broken
        if broken.changed:
            return False
        # Where artifacts must be signed, one that is not is the likely cause, and that is final.
        kind = Refused if self._trust.needed else BadGateway
        raise kind("artifact cannot be fetched", str(broken)) from broken

    def _begin(self, exchange: Exchange, attributes: Attributes) -> _Plan | None:
        """Make the answer's head; None when it has no body."""
        request = exchange.request
        etag, modified = _encoded(attributes.etag), _encoded(attributes.last_modified)
        choice = choose(
            request.fields,
            etag=etag,
            last_modified=modified,
            length=attributes.length,
            method=request.method,
        )
        fields: type_of_fields = [
            (b"Content-Type", _encoded(attributes.content_type) or b"application/octet-stream"),
            (b"Accept-Ranges", b"bytes"),
        ]
        if etag is not None:
            fields.append((b"ETag", etag))
        if modified is not None:
            fields.append((b"Last-Modified", modified))
        stall = self._limits.artifact_write_stall
        match choice:
            case NotModified():
                exchange.start(304, fields, None, timeout=stall)
                return None
            case Full():
                plan = _Plan(200, 0, attributes.length)
            case Partial(start, end):
                plan = _Plan(206, start, end)
                fields.append((b"Content-Range", content_range(start, end, attributes.length)))
            case Unsatisfiable():
                raise RangeNotSatisfiable(attributes.length)
            case _:
                raise PreconditionFailed
        exchange.start(plan.status, fields, plan.end - plan.start, timeout=stall)
        return None if request.method == b"HEAD" else plan

    @staticmethod
    async def _follow(exchange: Exchange, reader: Reader, plan: _Plan) -> None:
        """Send from the cache, as far as it is filled and then as it fills.

        `plan.start` moves with what was sent, so that another way can go on from there.
        """
        while plan.start < plan.end:
            ready = reader.ready(plan.start)
            if ready <= plan.start:
                ready = await exchange.patiently(reader.wait(plan.start))
            stop = min(ready, plan.end)
            await exchange.write_file(reader.fd, plan.start, stop)
            plan.start = stop

    async def _go_on(
        self, exchange: Exchange, link: LocalLink, attributes: Attributes, plan: _Plan
    ) -> Reader | None:
        """Go on from storage where the cache left off; as `_copy`."""
        url = self._seen.newest(link.object_id) or link.url
        source: Source
        way_back = None
        if self._must_guard(attributes, plan):
            source = self._trust.guard(link.object_id, await self._storage.open(url))
        else:
            source = await self._storage.open(url, plan.start, plan.end, attributes.validator)
            way_back = self._way_back(link, attributes)
        try:
            _check_same(attributes, source.attributes)
            return await self._copy(exchange, source, plan, way_back)
        finally:
            await source.aclose()

    def _way_back(self, link: LocalLink, attributes: Attributes) -> WayBack | None:
        """None without a cache, and where what passes must be verified from its beginning."""
        if self._cache is None or self._trust.needed:
            return None
        return WayBack(self._cache, link.object_id, attributes)

    async def _stream(self, exchange: Exchange, link: LocalLink) -> None:
        """Answer from storage, uncached; a Range that storage ignores is cut out here."""
        self._trust.refused(link.object_id)
        url = self._seen.newest(link.object_id) or link.url
        start = resumption(exchange.request.fields)[0] or 0
        condition = exchange.request.index.get(b"if-range")
        validator = condition.decode("latin-1") if condition is not None else None
        try:
            end = None if self._trust.needed else last_wanted(exchange.request.fields)
            download = await self._storage.open(url, start, end, validator)
        except RangeNotSatisfiable:
            download = await self._storage.open(url)  # for the length, which 416 should name
        source: Source = download
        attributes = download.attributes
        reader = None
        try:
            plan = self._begin(exchange, attributes)
            if plan is not None:
                guarded = self._must_guard(attributes, plan)
                # A range that is counted from the end is known only now.
                elsewhere = plan.start < source.offset or plan.start > max(start, source.offset)
                elsewhere = elsewhere or plan.end > download.end
                if guarded:
                    elsewhere = source.offset > 0
                if elsewhere:
                    await source.aclose()
                    source = download = await self._storage.open(url, 0 if guarded else plan.start)
                    _check_same(attributes, source.attributes)
                if guarded:
                    source = self._trust.guard(link.object_id, download)
                way_back = self._way_back(link, attributes)
                reader = await self._copy(exchange, source, plan, way_back)
        finally:
            await source.aclose()
        if reader is not None and plan is not None and self._cache is not None:
            await self._deliver(exchange, link, self._cache, reader, plan)
        else:
            await exchange.end()

    def _must_guard(self, attributes: Attributes, plan: _Plan) -> bool:
        """Whether the answer has the last byte of an object that must be verified."""
        return self._trust.needed and plan.end == attributes.length and plan.start < plan.end

    @staticmethod
    async def _copy(
        exchange: Exchange, source: Source, plan: _Plan, way_back: WayBack | None
    ) -> Reader | None:
        """Send from storage to the end (None), or until the cache has the object after all."""
        position = source.offset
        while plan.start < plan.end:
            data = await source.read()
            if not data:
                raise ConnectionAbortedError("storage answer broke off")
            skip = plan.start - position
            position += len(data)
            if skip > 0:
                data = data[skip:]
            data = data[: plan.end - plan.start]
            if data:
                await exchange.write(data)
                plan.start += len(data)
            if way_back is not None and (reader := way_back.open()) is not None:
                return reader
        return None


def _encoded(value: str | None) -> bytes | None:
    return value.encode("latin-1") if value is not None else None


def _check_same(old: Attributes, new: Attributes) -> None:
    """Raises ConnectionAbortedError unless bytes of `new` may follow bytes of `old`."""
    known = old.validator is not None and new.validator is not None
    if new.length != old.length or (known and new.validator != old.validator):
        raise ConnectionAbortedError("the artifact in storage has changed")


def _as_error(error: Exception) -> GatewayError:
    if isinstance(error, GatewayError):
        return error
    return BadGateway("artifact cannot be fetched", str(error))
