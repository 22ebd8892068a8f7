"""An S3-like store: presigned, expiring links to objects, with ranges, behind the uplink.

It has listeners of its own and may be mounted on the upstream's host too, under its bucket's
path. Everything it sends crosses `uplink`, heads included. It counts what was asked of each
object, so that a test or the demo can say what crossed the uplink how often.
"""

import asyncio
import base64
import hashlib
import re
import secrets
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mender_gateway.demo.answers import Answer, http_date
from mender_gateway.demo.blobs import Blob, BytesBlob, FileBlob, Slice, digest
from mender_gateway.demo.crossing import on_loop
from mender_gateway.demo.exchanges import Exchange
from mender_gateway.demo.faults import Behaviour, Rule
from mender_gateway.demo.presign import BadSignature, Expired, SigningKey, check, presigned
from mender_gateway.demo.uplink import Uplink
from mender_gateway.demo.wire import Request, WireServer

LINK_LIFE = 24 * 3600
"""Seconds; what deployments are given."""

MANAGEMENT_LINK_LIFE = 900
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. "
    "Check your key and signing method."
)
_TWO_MECHANISMS = (
    "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query "
    "string parameter or the Authorization header should be specified"
)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """`etag` with its quotes; `modified` in seconds since the epoch."""

    blob: Blob
    etag: str
    modified: float


@dataclass(slots=True)
class Usage:
    """What was asked of one object: answered GETs (200 and 206) and the body bytes promised."""

    gets: int = 0
    whole: int = 0
    """Of the GETs, those of the whole object (200)."""
    bytes: int = 0


class Storage:
    """The store. `start` opens the first listener; `authority` is what links name.

    What arrives on the upstream's host is logged and scripted there.
    """

    def __init__(
        self,
        uplink: Uplink | None = None,
        *,
        bucket: str = "mender",
        key: SigningKey | None = None,
        link_life: int = LINK_LIFE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.uplink = uplink or Uplink()
        self.bucket = bucket
        self.link_life = link_life
        self.server = WireServer(self.answer)
        self.base = ""
        """Scheme and authority that links are made with; set by `start`, may be changed."""
        self._key = key or SigningKey()
        self._clock = clock
        self._objects: dict[str, StoredObject] = {}
        self._usage: dict[str, Usage] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("the storage was not started")
        return self._loop

    async def start(
        self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        """Opens a listener; links name the one opened last."""
        self._loop = asyncio.get_running_loop()
        port = await self.server.listen(host, port, tls)
        shown = f"[{host}]" if ":" in host else host
        self.base = f"{'https' if tls else 'http'}://{shown}:{port}"

    async def close(self) -> None:
        await self.server.close()

    @property
    def now(self) -> float:
        """Seconds since the epoch by the store's clock."""
        return self._clock()

    @property
    def authority(self) -> str:
        return self.base.partition("://")[2]

    @property
    def requests(self) -> list[Exchange]:
        """Everything its own listeners were asked, in order of arrival."""
        return self.server.log.matching()

    def requests_to(self, pattern: str) -> list[Exchange]:
        """Those that fit, e.g. "GET *" (`Exchange.matches`)."""
        return self.server.log.matching(pattern)

    def wait_for(self, predicate: Callable[[], object], timeout: float = 10.0) -> None:
        """Blocks the calling thread (not the loop's) until `predicate()`; else `TimeoutError`."""
        self.server.log.wait_for(predicate, timeout)

    def script(
        self,
        matcher: str | Callable[[Exchange], bool],
        behaviour: Behaviour,
        times: int | None = 1,
    ) -> Rule:
        return self.server.script.add(matcher, behaviour, times)

    @on_loop
    def put(self, name: str, content: bytes | Path | Blob, etag: str | None = None) -> str:
        """Stores an object and returns its path; an earlier one of that name is replaced."""
        blob: Blob
        match content:
            case bytes():
                blob = BytesBlob(content)
            case Path():
                blob = FileBlob.of(content)
            case _:
                blob = content
        tag = etag or f'"{digest(blob, "md5")}"'
        self._objects[name] = StoredObject(blob, tag, self._clock())
        return f"/{self.bucket}/{name}"

    @on_loop
    def change_etag(self, name: str, etag: str) -> None:
        self._objects[name] = replace(self._objects[name], etag=etag)

    @on_loop
    def remove(self, name: str) -> None:
        self._objects.pop(name, None)

    @on_loop
    def link(self, name: str, filename: str = "artifact.mender", life: int | None = None) -> str:
        """A fresh presigned link to an object, valid `life` (default `link_life`) seconds."""
        lifetime = self.link_life if life is None else life
        path = f"/{self.bucket}/{name}"
        return presigned(self._key, self.base, path, self._clock(), lifetime, filename)

    @on_loop
    def usage(self, name: str) -> Usage:
        """A copy of the object's counts."""
        return replace(self._usage.get(name, Usage()))

    async def answer(self, request: Request) -> Answer:
        """The answer to any request for the store, wherever it arrived."""
        return replace(self._answer(request), pace=self.uplink)

    def _answer(self, request: Request) -> Answer:
        exchange = request.exchange
        head = exchange.method == "HEAD"
        if "X-Amz-Signature=" not in exchange.target:
            return self._refusal(403, "AccessDenied", "Access Denied.")
        if request.header("authorization") is not None:
            return self._refusal(400, "InvalidArgument", _TWO_MECHANISMS)
        try:
            if exchange.method != "GET":
                raise BadSignature
            query = check(self._key, exchange.target, request.header("host") or "", self._clock())
        except BadSignature:
            return self._refusal(403, "SignatureDoesNotMatch", _MISMATCH, bodiless=head)
        except Expired:
            return self._refusal(403, "AccessDenied", "Request has expired")
        name = exchange.path.removeprefix(f"/{self.bucket}/")
        stored = self._objects.get(name)
        if stored is None:
            return self._refusal(404, "NoSuchKey", "The specified key does not exist.")
        return self._object(request, name, stored, query)

    def _object(
        self, request: Request, name: str, stored: StoredObject, query: dict[str, str]
    ) -> Answer:
        size = stored.blob.size
        wanted = request.header("range")
        condition = request.header("if-range")
        modified = http_date(stored.modified)
        if condition is not None and condition not in (stored.etag, modified):
            wanted = None
        part = _part(wanted, size)
        if part is None:
            return self._unsatisfiable(wanted or "", size)
        start, length, partial = part
        fields = [
            ("Date", http_date(self._clock())),
            ("Etag", stored.etag),
            ("Last-Modified", modified),
            ("x-amz-content-sha256", _EMPTY_SHA256),
            ("Accept-Ranges", "bytes"),
            ("Content-Type", query.get("response-content-type", "binary/octet-stream")),
        ]
        if disposition := query.get("response-content-disposition"):
            fields.append(("Content-Disposition", disposition))
        fields.append(("x-amzn-requestid", secrets.token_urlsafe(39)))
        if partial:
            fields.append(("Content-Range", f"bytes {start}-{start + length - 1}/{size}"))
        fields.append(("Access-Control-Allow-Origin", "*"))
        fields.append(("Content-Length", str(length)))
        usage = self._usage.setdefault(name, Usage())
        usage.gets += 1
        usage.whole += not partial
        usage.bytes += length
        body = Slice(stored.blob, start, length)
        return Answer(206 if partial else 200, fields, body, "PARTIAL CONTENT" if partial else None)

    def _unsatisfiable(self, wanted: str, size: int) -> Answer:
        host_id = base64.b64encode(secrets.token_bytes(56)).decode()
        body = (
            '<?xml version="1.0" encoding="utf-8"?>\n<Error><Code>InvalidRange</Code>'
            "<Message>The requested range is not satisfiable</Message>"
            f"<ActualObjectSize>{size}</ActualObjectSize><RangeRequested>{wanted}</RangeRequested>"
            "<RequestId>request-id</RequestId>"
            f"<HostId>{host_id}</HostId></Error>"
        ).encode()
        fields = [
            ("Date", http_date(self._clock())),
            ("Content-Type", "application/xml"),
            ("Server", "amazon.com"),
            ("Access-Control-Allow-Origin", "*"),
            ("Content-Length", str(len(body))),
        ]
        return Answer(416, fields, body, "REQUESTED RANGE NOT SATISFIABLE")

    def _refusal(self, status: int, code: str, message: str, bodiless: bool = False) -> Answer:
        request_id = secrets.token_hex(8).upper()
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
            f"<Message>{message}</Message><RequestId>{request_id}</RequestId></Error>"
        ).encode()
        fields = [
            ("x-amz-request-id", request_id),
            ("Content-Type", "application/xml; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Date", http_date(self._clock())),
        ]
        return Answer(status, fields, b"" if bodiless else body)


def _part(wanted: str | None, size: int) -> tuple[int, int, bool] | None:
    """Start, length and whether it is a 206; None when the range lies behind the end.

    A Range that is not one valid byte range counts as none (RFC 9110 14.2).
    """
    match = _RANGE.fullmatch(wanted or "")
    if match is None or match.groups() == ("", ""):
        return 0, size, False
    first, last = match.groups()
    if not first:
        start = max(0, size - int(last))
        return (start, size - start, True) if int(last) and size else None
    start, end = int(first), min(int(last), size - 1) if last else size - 1
    if last and int(last) < start:
        return 0, size, False
    return (start, end - start + 1, True) if start < size else None
