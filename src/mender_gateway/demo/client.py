"""HTTP/1.1 on the device's side, over asyncio streams, strict about what it is answered.

A device is the judge of a gateway, so this client parses by itself and accepts no sloppiness: a
doubled length, a body that ends early, bad chunks, bytes between two answers are a `WireError`
that says what was wrong. Requests are written as the real client writes them.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

USER_AGENT = "Go-http-client/1.1"
_LINE_LIMIT = 64 * 1024
_READ = 256 * 1024
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5]\d\d)(?: ([\x20-\x7e\x80-\xff]*))?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})(?:;.*)?")

Headers = Sequence[tuple[str, str]]


class WireError(Exception):
    """The other end broke the protocol or the connection; the text says how."""


class CutShort(WireError):
    """The connection ended inside a body."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads; `path` is path and query exactly as written."""

    scheme: str
    host: str
    port: int
    authority: str
    path: str

    @classmethod
    def of(cls, url: str) -> "Target":
        """`WireError` for anything but an absolute http(s) URL, as the real client refuses it."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WireError(f"unsupported URL {url!r}")
        authority = parts.netloc.rpartition("@")[2]
        path = url[url.index(parts.netloc) + len(parts.netloc) :].partition("#")[0]
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname, port, authority, path or "/")


@dataclass(frozen=True, slots=True)
class AnswerHead:
    status: int
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str | None:
        name = name.lower()
        return next((value for key, value in self.headers if key.lower() == name), None)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def length(self) -> int | None:
        """Content-Length; `WireError` when it is doubled or no number."""
        given = self.all("content-length")
        if not given:
            return None
        if len(given) > 1 or not given[0].isdecimal():
            raise WireError(f"Content-Length: {', '.join(given)}")
        return int(given[0])


class Connection:
    """One connection; one request at a time. `close` it, or use it as a context manager."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._body: AsyncIterator[bytes] | None = None
        self._reusable = True

    @classmethod
    async def open(
        cls, target: Target, tls: ssl.SSLContext | None, timeout: float = 30.0
    ) -> "Connection":
        """`OSError` (TLS failures are) or `TimeoutError` when there is no connection."""
        context = tls if target.scheme == "https" else None
        if target.scheme == "https" and context is None:
            raise WireError(f"no TLS settings for {target.authority}")
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(
                target.host, target.port, ssl=context, limit=_LINE_LIMIT
            )
        return cls(reader, writer)

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent; false once the server closed an idle connection."""
        return self._reusable and not self._reader.at_eof() and not self._writer.is_closing()

    async def send(
        self,
        method: str,
        target: Target,
        headers: Headers,
        body: bytes | None = None,
        chunked: bool = False,
    ) -> None:
        """Sends a request: Host, User-Agent and the body's framing first, then `headers`."""
        lines = [
            f"{method} {target.path} HTTP/1.1",
            f"Host: {target.authority}",
            f"User-Agent: {USER_AGENT}",
        ]
        if body is not None:
            framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
            lines.append(framing)
        lines += [f"{name}: {value}".rstrip() for name, value in headers]
        data = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if body is not None:
            data += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked and body else body
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, timeout: float, method: str = "GET") -> AnswerHead:
        """The final answer's head, within `timeout` seconds; the body is then read by `chunks`."""
        try:
            async with asyncio.timeout(timeout):
                head = await self._one_head()
                while head.status < 200 and head.status != 101:
                    head = await self._one_head()
        except TimeoutError:
            raise WireError(f"no answer within {timeout} s") from None
        if "close" in (head.header("connection") or "").lower():
            self._reusable = False
        self._body = self._framed(head, method)
        return head

    async def chunks(self, timeout: float) -> AsyncIterator[bytes]:
        """The body as it arrives; `WireError` after `timeout` seconds of silence."""
        body = self._body
        if body is None:
            return
        while True:
            try:
                async with asyncio.timeout(timeout):
                    piece = await anext(body)
            except StopAsyncIteration:
                break
            except TimeoutError:
                raise WireError(f"nothing for {timeout} s inside a body") from None
            yield piece
        self._body = None

    async def read(self, timeout: float, limit: int = 4 * 1024 * 1024) -> bytes:
        """The whole body; `WireError` when it is longer than `limit`."""
        collected = bytearray()
        async for piece in self.chunks(timeout):
            collected += piece
            if len(collected) > limit:
                raise WireError(f"a body of more than {limit} bytes")
        return bytes(collected)

    async def raw_read(self) -> bytes:
        """After a 101: bytes of the tunnel, empty at its end."""
        return await self._reader.read(_READ)

    async def raw_write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(5):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _line(self) -> bytes:
        try:
            line = await self._reader.readuntil(b"\r\n")
        except asyncio.IncompleteReadError as error:
            what = "inside a head" if error.partial else "without an answer"
            raise CutShort(f"the connection ended {what}") from None
        except (asyncio.LimitOverrunError, OSError) as error:
            raise WireError(str(error)) from None
        return line[:-2]

    async def _one_head(self) -> AnswerHead:
        line = await self._line()
        match = _STATUS.fullmatch(line)
        if match is None:
            raise WireError(f"bad status line {line!r}")
        fields: list[tuple[str, str]] = []
        while line := await self._line():
            field = _FIELD.fullmatch(line)
            if field is None:
                raise WireError(f"bad field line {line!r}")
            fields.append((field[1].decode("latin-1"), field[2].decode("latin-1")))
        return AnswerHead(int(match[1]), tuple(fields))

    async def _framed(self, head: AnswerHead, method: str) -> AsyncIterator[bytes]:
        """The body by RFC 9112 6.3."""
        coding = head.header("transfer-encoding")
        length = head.length
        if method == "HEAD" or head.status in (101, 204, 304):
            if head.status == 204 and (length is not None or coding is not None):
                raise WireError("a 204 with a body's framing")
            return
        if coding is not None:
            if length is not None or coding.lower() != "chunked":
                raise WireError(f"Transfer-Encoding {coding} with length {length}")
            async for piece in self._chunked():
                yield piece
        elif length is not None:
            async for piece in self._exactly(length):
                yield piece
        else:
            self._reusable = False
            while data := await self._some(_READ):
                yield data

    async def _chunked(self) -> AsyncIterator[bytes]:
        while True:
            line = await self._line()
            match = _CHUNK.fullmatch(line)
            if match is None:
                raise WireError(f"bad chunk size {line!r}")
            size = int(match[1], 16)
            if size == 0:
                break
            async for piece in self._exactly(size):
                yield piece
            if await self._line():
                raise WireError("no line end behind a chunk")
        while await self._line():
            pass

    async def _exactly(self, size: int) -> AsyncIterator[bytes]:
        left = size
        while left:
            data = await self._some(min(left, _READ))
            if not data:
                raise CutShort(f"the connection ended {left} of {size} bytes before the end")
            left -= len(data)
            yield data

    async def _some(self, size: int) -> bytes:
        try:
            return await self._reader.read(size)
        except OSError as error:
            raise CutShort(f"the connection broke inside a body: {error}") from None
