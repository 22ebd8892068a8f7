"""Downloads from storage: exactly the signed path and query, none of the device's fields.

Storage links are signed for GET, the exact Host and the exact target, so nothing is added that a
signature could cover and nothing is probed with HEAD. Redirects are followed here, to whitelisted
hosts alone. What comes back is judged before a byte is passed on: a length is required, a content
coding refused, a range must be the one asked for. All downloads together keep to one rate.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from mender_gateway.artifacts.identity import Origin as Link
from mender_gateway.artifacts.identity import parse_storage_url, signed_at
from mender_gateway.artifacts.links import under_api
from mender_gateway.artifacts.ranges import parse_content_range, unsatisfied_total
from mender_gateway.artifacts.rate import RateLimit
from mender_gateway.artifacts.verify import digest_of_etag
from mender_gateway.artifacts.whitelist import Whitelist
from mender_gateway.cache.cache import Cache
from mender_gateway.cache.errors import OriginRefused
from mender_gateway.cache.origin import Attributes
from mender_gateway.config.settings import Endpoint, Limits
from mender_gateway.errors import (
    BadGateway,
    BadLink,
    BadRequest,
    Forbidden,
    GatewayTimeout,
    NotFound,
    RangeNotSatisfiable,
)
from mender_gateway.http.client import Client, NoAnswer, Pool, Server
from mender_gateway.http.message import Answer
from mender_gateway.http.wire import MalformedChunk

_REDIRECTS = 3
_READ = 256 * 1024
_KNOWN_SERVERS = 64
_KNOWN_DIGESTS = 4096


class Refused(BadGateway):
    """Storage answered, and asking again the same way would bring the same."""


class Seen:
    """The newest link seen for each object, by its signing time; the oldest are forgotten."""

    def __init__(self, bound: int = 4096) -> None:
        self._bound = bound
        self._links: dict[str, tuple[float, str]] = {}

    def note(self, object_id: str, url: str, origin: Link | None = None) -> bool:
        """Take in a link, read as `origin` where it was read already; whether it is the newest."""
        known = self._links.get(object_id)
        if known is not None and known[1] == url:
            return False
        when = _signed(origin or parse_storage_url(url))
        if known is not None and known[0] > when:
            return False
        self._links.pop(object_id, None)
        self._links[object_id] = (when, url)
        if len(self._links) > self._bound:
            del self._links[next(iter(self._links))]
        return True

    def recall(self, object_id: str, url: str) -> None:
        """Take in a link that was kept: of links that are equally old the one seen last stays."""
        known = self._links.get(object_id)
        if known is None or known[0] < _signed(parse_storage_url(url)):
            self.note(object_id, url)

    def newest(self, object_id: str) -> str | None:
        known = self._links.get(object_id)
        return known[1] if known is not None else None


def _signed(origin: Link) -> float:
    return signed_at(origin) or 0.0


@dataclass(slots=True)
class Download:
    """An open download; its bytes start at `offset` of the object."""

    attributes: Attributes
    offset: int
    end: int
    """Where its bytes end, exclusive."""
    client: Client
    pool: Pool
    silence: float
    keep_alive: bool
    received: Callable[[int], None]
    rate: RateLimit | None = None
    _left: int = -1

    async def read(self) -> bytes:
        """The next bytes; empty at the clean end. Raises ConnectionError or TimeoutError."""
        if self._left < 0:
            self._left = self.end - self.offset
        try:
            size = _READ if self.rate is None else self.rate.piece
            data = await self.client.read_body(self.silence, size)
        except MalformedChunk as error:
            raise ConnectionAbortedError(f"storage answer broke off: {error}") from error
        self._left -= len(data)
        if self._left < 0 or (not data and self._left):
            raise ConnectionAbortedError("storage sent another length than it said")
        self.received(len(data))
        if self.rate is not None and data:
            await self.rate.spend(len(data))
        return data

    async def aclose(self) -> None:
        """Give the connection back when everything was read, else end it at once."""
        if self.client.body_done and self.keep_alive and not self._left:
            self.pool.give_back(self.client)
        else:
            self.pool.discard(self.client, abort=True)


class Storage:
    """Fetches objects from whitelisted hosts."""

    def __init__(
        self,
        pool: Pool,
        whitelist: Whitelist,
        context: Callable[[], ssl.SSLContext],
        limits: Limits,
        received: Callable[[int], None],
        rate: RateLimit | None = None,
    ) -> None:
        self._pool = pool
        self._whitelist = whitelist
        self._context = context
        self._limits = limits
        self._received = received
        self._rate = rate
        self._digests: dict[str, None] = {}
        """ETags that S3 made of the content's MD5."""
        self._servers: dict[Endpoint, Server] = {}
        self.allowed = lru_cache(maxsize=256)(self._allowed)
        """The link taken apart; raises BadLink, or Forbidden for a host not on the whitelist."""

    def _allowed(self, url: str) -> Link:
        link = parse_storage_url(url)
        if not self._whitelist.allows(link.host, link.port):
            raise Forbidden("the storage host is not on DomainWhitelist", link.host)
        return link

    async def open(
        self,
        url: str,
        start: int = 0,
        end: int | None = None,
        validator: str | None = None,
        *,
        resumes: bool = False,
    ) -> Download:
        """Begin to fetch bytes `start` to `end` (exclusive; None: all the rest).

        `resumes`: the caller goes on by itself after a break, so that a shorter silence is one.

        Storage that ignores the range, or whose object no longer has `validator`, gives a download
        from 0. Raises BadGateway, GatewayTimeout, NotFound, Forbidden, RangeNotSatisfiable (its
        length None where storage does not say it: stores exist that do not).
        """
        fields = []
        if start or end is not None:
            last = b"" if end is None else b"%d" % (end - 1)
            fields.append(b"Range: bytes=%d-%b\r\n" % (start, last))
            if validator is not None:
                fields.append(b"If-Range: %b\r\n" % validator.encode("latin-1"))
        link = self.allowed(url)
        for _ in range(_REDIRECTS + 1):
            client, answer = await self._get(link, fields)
            if answer.status not in (301, 302, 303, 307, 308):
                break
            self._pool.discard(client, abort=True)
            location = answer.index.get(b"location", b"").decode("latin-1")
            if location.startswith("/") and not location.startswith("//"):
                location = f"{link.scheme}://{link.authority}{location}"
            link = self._redirected(link, location)
        else:
            raise Refused(f"storage redirects more than {_REDIRECTS} times")
        try:
            attributes, offset, stop = self._judge(answer, start)
        except BaseException:
            self._pool.discard(client, abort=True)
            raise
        etag = attributes.etag
        if etag is not None and digest_of_etag(etag) and _is_md5(link, answer.index):
            self._digests[etag] = None
            while len(self._digests) > _KNOWN_DIGESTS:
                del self._digests[next(iter(self._digests))]
        # Where a break could not be resumed, wait as long as we can.
        limits = self._limits
        resumes = resumes and attributes.validator is not None
        silence = limits.body_progress if resumes else limits.download_first_byte
        return Download(
            attributes,
            offset,
            stop,
            client,
            self._pool,
            silence,
            answer.keep_alive,
            self._received,
            self._rate,
        )

    def _redirected(self, link: Link, location: str) -> Link:
        """Where storage sends us; raises Refused.

        Neither to an API (the server's own host may be whitelisted, and its internal APIs are open
        to us), nor out of TLS: somebody on the way could answer then, for all devices.
        """
        try:
            there = self.allowed(location)
            if under_api(there):
                raise Forbidden("an API is no storage", location)
        except (BadLink, BadRequest, Forbidden) as error:
            raise Refused("storage redirects to where we may not go", str(error)) from error
        if link.scheme == "https" and there.scheme != "https":
            raise Refused("storage redirects from https to http", there.host)
        return there

    def plain_md5(self, etag: str) -> bool:
        """Whether an answer seen said that this ETag is the MD5 of the object's content."""
        return etag in self._digests

    def _server(self, endpoint: Endpoint) -> Server:
        server = self._servers.get(endpoint)
        if server is None:
            while len(self._servers) >= _KNOWN_SERVERS:
                del self._servers[next(iter(self._servers))]
            context = self._context() if endpoint.scheme == "https" else None
            server = self._servers[endpoint] = Server(endpoint, context)
        return server

    async def _get(self, link: Link, fields: list[bytes]) -> tuple[Client, Answer]:
        server = self._server(Endpoint(link.scheme, link.host, link.port))
        client = self._pool.take(server)
        while True:
            if client is None:
                client = await self._pool.connect(server)
            try:
                lines = [
                    b"GET %b%b HTTP/1.1\r\n" % (client.prefix, link.target.encode()),
                    b"Host: %b\r\n" % link.authority.encode(),
                    b"User-Agent: mender-gateway\r\n",
                    b"Accept-Encoding: identity\r\n",
                    *fields,
                ]
                if client.authorization:
                    lines.append(b"Proxy-Authorization: %b\r\n" % client.authorization)
                lines.append(b"\r\n")
                complete = await client.send(b"".join(lines), self._limits.write_stall)
                answer = await client.answer(b"GET", self._limits.download_first_byte)
                if not complete:
                    answer.keep_alive = False
                return client, answer
            except (NoAnswer, OSError) as error:
                self._pool.discard(client, abort=True)
                if isinstance(error, TimeoutError):
                    raise GatewayTimeout("storage takes no data") from error
                if not client.reused:
                    raise BadGateway(f"storage ended the connection: {error}") from error
                client = None
            except BaseException:
                self._pool.discard(client, abort=True)
                raise

    @staticmethod
    def _judge(answer: Answer, start: int) -> tuple[Attributes, int, int]:
        """What the answer brings: the whole object's attributes, and from where to where."""
        index = answer.index
        if answer.status == 416:
            raise RangeNotSatisfiable(unsatisfied_total(index.get(b"content-range")))
        if answer.status in (404, 410):
            raise NotFound(f"storage answered {answer.status}: the artifact is not there")
        if answer.status not in (200, 206):
            final = 400 <= answer.status < 500 and answer.status not in (408, 429)
            raise (Refused if final else BadGateway)(f"storage answered {answer.status}")
        if index.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refused("storage answered with a content encoding")
        if answer.framing < 0:
            raise Refused("storage answered without Content-Length")
        offset, stop = 0, answer.framing
        total = stop
        if answer.status == 206:
            offset, stop, total = parse_content_range(index.get(b"content-range"))
            if offset != start or stop - offset != answer.framing:
                raise BadGateway("storage answered with another range than asked for")
        text = {name: index[name].decode("latin-1") for name in _KEPT if name in index}
        attributes = Attributes(
            total, text.get(b"content-type"), text.get(b"etag"), text.get(b"last-modified")
        )
        return attributes, offset, stop


_KEPT = (b"content-type", b"etag", b"last-modified")


def _is_md5(link: Link, index: dict[bytes, bytes]) -> bool:
    """Whether an ETag of 32 digits is the content's MD5: of S3, unless encrypted with own keys.

    Source: Amazon S3 API reference, Object. Other stores' ETags of this form mean something else.
    """
    encryption = index.get(b"x-amz-server-side-encryption", b"AES256")
    if encryption != b"AES256" or b"x-amz-server-side-encryption-customer-algorithm" in index:
        return False
    signed = any(name in link.target for name in ("X-Amz-Signature=", "AWSAccessKeyId="))
    return signed or any(name.startswith((b"x-amz-", b"x-amzn-")) for name in index)


class CachedOrigin:
    """An object's origin for the cache: always by the newest link that was seen for it.

    The link in use is kept with the partial object, so that whoever takes a fill over, after a
    restart or in another process, is not left with the older link of the device that asks.
    """

    def __init__(
        self, storage: Storage, seen: Seen, cache: Cache, object_id: str, url: str
    ) -> None:
        self._storage = storage
        self._seen = seen
        self._cache = cache
        self._object_id = object_id
        self._url = url

    async def open(self, offset: int, validator: str | None) -> Download:
        """Raises OriginRefused where asking again is of no use.

        While a download is under way nothing is final: a newer link may come by.
        """
        kept = await self._cache.recall(self._object_id)
        if kept is not None:
            self._seen.recall(self._object_id, kept.decode("latin-1"))
        url = self._seen.newest(self._object_id) or self._url
        if kept is None or kept.decode("latin-1") != url:
            await self._cache.remember(self._object_id, url.encode())
        try:
            try:
                return await self._storage.open(url, offset, None, validator, resumes=True)
            except RangeNotSatisfiable:
                # The object ends before `offset` now, and storage has not looked at the validator:
                # what it has instead is said by the whole of it.
                return await self._storage.open(url, resumes=True)
        except (Refused, Forbidden, BadLink, NotFound) as error:
            if offset:
                raise
            raise OriginRefused(error) from error
