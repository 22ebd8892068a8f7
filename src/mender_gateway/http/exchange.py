"""One request and its answer, as the rooms above see them.

The answer's head waits until its first body bytes (or `end`), so that a small answer is one send.
The framing is made here: a known length is kept to the byte, one byte too many or too few is an
exception; otherwise chunks in HTTP/1.1 and the connection's end in 1.0. Once a byte of the answer
is out, an error can only abort the connection: a short body is never ended cleanly.
"""

import asyncio
import os
import re
import time
from collections.abc import Awaitable
from email.utils import formatdate
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from mender_gateway.errors import BadRequest, GatewayError, Overloaded, RequestTimeout
from mender_gateway.http.chunked import LAST_CHUNK, MalformedChunk, frame
from mender_gateway.http.message import Request, joined, type_of_fields
from mender_gateway.http.wire import Wire
from mender_gateway.net.bulk import Bulk, read_now
from mender_gateway.net.stream import Stream

if TYPE_CHECKING:
    from mender_gateway.net.certificate import ClientCertificate

_REASONS = {
    200: b"OK", 204: b"No Content", 206: b"Partial Content", 304: b"Not Modified",
    400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout", 412: b"Precondition Failed", 413: b"Content Too Large",
    416: b"Range Not Satisfiable",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error", 502: b"Bad Gateway",
    503: b"Service Unavailable", 504: b"Gateway Timeout",
}  # fmt: skip


_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""Ids that the upstream may give to a request whose answer then becomes an error of ours."""

_SMALL = 64 * 1024
"""Bytes of a file range that are sent without leaving the event loop."""

_ASK_AGAIN = 10.0
"""Seconds between two looks at whether a waiting device is still there."""

_FREE = 64 * 1024

T = TypeVar("T")


class WrongLength(RuntimeError):
    """An answer's body is longer or shorter than its head said."""


class Budget:
    """What all requests together may keep of their bodies, in bytes. Not thread-safe."""

    def __init__(self, most: int) -> None:
        self.left = most


class Exchange:
    """The request with its body to read, and the answer to be made: `start`, `write`…, `end`."""

    __slots__ = (
        "_budget",
        "_chunked",
        "_head",
        "_kept",
        "_left",
        "_timeout",
        "began",
        "bulk",
        "ended",
        "fault",
        "keep_alive",
        "peer",
        "request",
        "request_id",
        "route",
        "scheme",
        "sent",
        "started",
        "status",
        "stream",
        "upgraded",
        "wire",
    )

    def __init__(
        self,
        request: Request,
        wire: Wire,
        scheme: str,
        bulk: Bulk,
        timeout: float,
        budget: Budget,
    ) -> None:
        self.request = request
        self.wire = wire
        self.stream: Stream = wire.stream
        self.bulk = bulk
        self.scheme = scheme
        """`http` or `https`, as the device reached us."""
        self.peer = wire.stream.peer
        self.route = "other"
        """Name of the matched route, for metrics and the access line."""
        self.fault: str | None = None
        """Why the gateway itself refused the request or ended the answer."""
        self.request_id = ""
        self.began = time.monotonic()
        self.status = 0
        self.sent = 0
        """Body bytes of the answer handed to the kernel."""
        self.started = False
        """A byte of the answer may be out."""
        self.ended = False
        self.upgraded = False
        self.keep_alive = request.keep_alive
        self._timeout = timeout
        self._budget = budget
        self._kept = 0
        self._head = b""
        self._left: int | None = 0
        self._chunked = False

    @property
    def certificate(self) -> "ClientCertificate | None":
        """The device's verified certificate, where one is required."""
        return self.stream.certificate

    @property
    def seconds(self) -> float:
        """Since the request's head was read."""
        return time.monotonic() - self.began

    # --- the request's body --------------------------------------------------------------------

    async def read_body(self, timeout: float) -> bytes:
        """The next bytes of the request's body, empty at its end.

        Invites the device to send it first. Raises BadRequest for bad chunks, RequestTimeout after
        `timeout` seconds of silence, OSError when the device is gone.
        """
        if self.request.expects:
            await self.invite_body(timeout)
        try:
            return await self.wire.read_body(timeout)
        except MalformedChunk as error:
            raise BadRequest(f"malformed request body: {error}") from error
        except TimeoutError:
            raise RequestTimeout from None

    def take_body(self) -> bytes | None:
        """The request's whole body if it is here already, else None; does not wait."""
        return None if self.request.expects else self.wire.take_whole()

    async def invite_body(self, timeout: float) -> None:
        """Answer `Expect: 100-continue` where the device waits for that (RFC 9110 10.1.1)."""
        if self.request.expects and not self.wire.body_done and not self.started:
            self.request.expects = False
            if not self.wire.buffer:
                await self.stream.send(b"HTTP/1.1 100 Continue\r\n\r\n", timeout)

    def keep(self, size: int) -> None:
        """Account for `size` bytes of the body that are kept until the end of the exchange.

        Raises Overloaded when all requests together keep too much; the first `_FREE` bytes of each
        are not counted, so that usual bodies pass whatever others send.
        """
        before = max(0, self._kept - _FREE)
        self._kept += size
        more = max(0, self._kept - _FREE) - before
        if more > self._budget.left:
            self._kept -= size
            raise Overloaded("too many large requests at a time")
        self._budget.left -= more

    def release(self) -> None:
        """Nothing of the body is kept any more."""
        if not self._kept:
            return
        self._budget.left += max(0, self._kept - _FREE)
        self._kept = 0

    # --- the answer ----------------------------------------------------------------------------

    def start(
        self,
        status: int,
        fields: type_of_fields,
        length: int | None,
        reason: bytes | None = None,
        timeout: float | None = None,
    ) -> None:
        """Make the answer's head; `fields` carry no framing and no connection options.

        `length` is the body's in bytes, None when unknown. Answers without a body by rule (HEAD,
        204, 304) may carry the length of what is not sent: `write` must then not be called.
        `timeout` bounds, in seconds, each wait in which the device takes no byte.
        """
        request = self.request
        self.status = status
        if timeout is not None:
            self._timeout = timeout
        fields = fields.copy()
        if status == 204 or status == 304 or request.method == b"HEAD":
            if length is not None and status != 204:
                fields.append((b"Content-Length", b"%d" % length))
            self._left = 0
        elif length is not None:
            fields.append((b"Content-Length", b"%d" % length))
            self._left = length
        else:
            self._left = None
            if request.version == 11:
                self._chunked = True
                fields.append((b"Transfer-Encoding", b"chunked"))
            else:
                self.keep_alive = False
        if request.expects and not self.wire.body_done:
            self.keep_alive = False  # the body may or may not come (RFC 9110 10.1.1)
        if not self.keep_alive:
            fields.append((b"Connection", b"close"))
        elif request.version == 10:
            fields.append((b"Connection", b"keep-alive"))
        self._head = joined(_status_line(status, reason), fields)

    async def write(self, data: bytes) -> None:
        """Send body bytes after the head; raises WrongLength, TimeoutError or OSError."""
        size = len(data)
        if not size:
            return
        left = self._left
        if left is not None:
            if size > left:
                raise WrongLength(f"{size - left} bytes too many")
            self._left = left - size
        if self._chunked:
            data = frame(data)
        if self._head:
            data = self._head + data
            self._head = b""
        self.started = True
        await self.stream.send(data, self._timeout)
        self.sent += size

    async def write_file(self, fd: int, start: int, end: int) -> None:
        """Send bytes `start` to `end` of a file; the head must announce a length.

        Small ranges that are in memory leave from here, with the head, the others through the
        sender threads: a hop to a thread costs more than a few small sends.
        """
        size = end - start
        if self._left is None or size > self._left:
            raise WrongLength("file range does not fit the announced length")
        if size <= _SMALL:
            data = read_now(fd, start, size)
            if data is not None:
                await self.write(data)
                return
        self.started = True
        if self._head:
            head, self._head = self._head, b""
            await self.stream.send(head, self._timeout)
        self._left -= size
        await self.bulk.send(self.stream, fd, start, end, self._timeout, self._progress)

    def _progress(self, sent: int) -> None:
        self.sent += sent

    async def flush(self) -> None:
        """Send the head now, before the first body byte is there."""
        if self._head:
            head, self._head = self._head, b""
            self.started = True
            await self.stream.send(head, self._timeout)

    async def end(self) -> None:
        """Finish the answer; raises WrongLength when body bytes are missing."""
        if self._left:
            raise WrongLength(f"{self._left} bytes too few")
        self.ended = True
        if self._chunked:
            data, self._head = self._head + LAST_CHUNK, b""
        else:
            data, self._head = self._head, b""
        if data:
            self.started = True
            await self.stream.send(data, self._timeout)

    async def respond(
        self,
        status: int,
        fields: type_of_fields | None = None,
        body: bytes = b"",
        reason: bytes | None = None,
    ) -> None:
        """A whole answer at once; without its body where the rule has none (HEAD, 204, 304)."""
        rest = self.respond_at_once(status, fields or [], body, reason)
        if rest:
            await self.stream.send(rest, self._timeout)

    def respond_at_once(
        self,
        status: int,
        fields: type_of_fields,
        body: bytes,
        reason: bytes | None = None,
        timeout: float | None = None,
    ) -> memoryview | None:
        """As `respond`, without waiting: what the device does not take yet is left to be sent."""
        self.start(status, fields, len(body), reason, timeout)
        if not self._left:
            body = b""
        data, self._head = self._head + body, b""
        self._left = 0
        self.started = self.ended = True
        self.sent += len(body)
        sent = self.stream.try_send(data)
        return memoryview(data)[sent:] if sent < len(data) else None

    async def patiently(self, work: Awaitable[T]) -> T:
        """The result of `work`, which may take long; asks now and then whether the device still is
        there, and cancels the work and raises ConnectionResetError when it is not.
        """
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_ASK_AGAIN)
                if not task.done() and self.stream.gone():
                    raise ConnectionResetError("the device is gone")
            return task.result()
        finally:
            task.cancel()

    async def refuse(self, error: GatewayError) -> None:
        """Answer with an error of the gateway's own, in the shape of the Mender services."""
        if not _REQUEST_ID.fullmatch(self.request_id):
            self.request_id = new_request_id()
        self.fault = str(error)
        if error.close:
            self.keep_alive = False
        fields: type_of_fields = [
            (b"Content-Type", b"application/json; charset=utf-8"),
            (b"X-Men-Requestid", self.request_id.encode()),
            (b"Date", formatdate(usegmt=True).encode()),
        ]
        if error.retry_after is not None:
            fields.append((b"Retry-After", b"%d" % error.retry_after))
        length = getattr(error, "length", None)
        if length is not None:
            fields.append((b"Content-Range", b"bytes */%d" % length))
        text = quoted(error.public)
        body = f'{{"error":{text},"request_id":"{self.request_id}"}}'.encode()
        await self.respond(error.status, fields, body)


@lru_cache(maxsize=64)
def _status_line(status: int, reason: bytes | None) -> bytes:
    if reason is None:
        reason = _REASONS.get(status, b"")
    return b"HTTP/1.1 %d %b" % (status, reason)


def new_request_id() -> str:
    """A random UUID (RFC 9562, version 4), the form of the Mender services' request ids."""
    return str(UUID(bytes=os.urandom(16), version=4))
