"""A small HTTP/1.1 server over asyncio streams and llhttp, made to be observed and to misbehave.

One coroutine lives as long as a connection: it reads a head, logs it, asks the script how to
behave, lets the handler answer, sends. Requests on one connection are served in order; bodies
stream in and out; after an answer whose length is not what it declared the connection ends.
"""

import asyncio
import http
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httptools

from mender_gateway.demo.answers import Answer
from mender_gateway.demo.blobs import BytesBlob, Slice
from mender_gateway.demo.exchanges import LOGGED_BODY, Exchange, ExchangeLog
from mender_gateway.demo.faults import Behaviour, Drop, Script
from mender_gateway.demo.link import SEND, Gone, Head, Link, Tunnel
from mender_gateway.demo.uplink import PIECE, Uplink


class BodyTooLarge(Exception):
    """A request body is longer than its reader allows."""


class Request:
    """What a handler is given: the head, and the body as it arrives."""

    def __init__(self, exchange: Exchange, hidden: tuple[str, ...], link: Link) -> None:
        self.exchange = exchange
        self._hidden = hidden
        self._link = link

    @property
    def method(self) -> str:
        return self.exchange.method

    @property
    def path(self) -> str:
        return self.exchange.path

    @property
    def secure(self) -> bool:
        return self.exchange.tls_version is not None

    def header(self, name: str) -> str | None:
        """The first such field, unless a script hides it from the server."""
        return None if name.lower() in self._hidden else self.exchange.header(name)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body's bytes as they arrive."""
        while (chunk := await self._link.body_event()) is not None:
            exchange = self.exchange
            exchange.body_length += len(chunk)
            if len(exchange.body) < LOGGED_BODY:
                exchange.body += chunk[: LOGGED_BODY - len(exchange.body)]
            yield chunk
        self.exchange.body_complete = True

    async def read(self, limit: int) -> bytes:
        """The rest of the body; `BodyTooLarge` when it has more than `limit` bytes."""
        collected = bytearray()
        async for chunk in self.chunks():
            collected += chunk
            if len(collected) > limit:
                raise BodyTooLarge
        return bytes(collected)


Handler = Callable[[Request], Awaitable[Answer]]


class WireServer:
    """Listeners that share one handler, one log and one script. Lives on one event loop."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.log = ExchangeLog()
        self.failures: list[Exception] = []
        """Faults of the handler itself, each answered with 500: a test may insist on none."""
        self.script = Script()
        self.connections = 0
        """Accepted since the start."""
        self._sequence = 0
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(
        self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> int:
        """Opens one more listener and returns its port."""
        server = await asyncio.start_server(self._accepted, host, port, ssl=tls, backlog=1024)
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Closes the listeners and cuts every connection."""
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_all(self) -> None:
        """Cuts every open connection; the listeners stay."""
        for task in list(self._tasks):
            task.cancel()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        number, self.connections = self.connections, self.connections + 1
        try:
            await self._serve(Link(reader, writer), number)
        except (Gone, OSError, TimeoutError, httptools.HttpParserError, EOFError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.close()
            try:
                async with asyncio.timeout(5):
                    await writer.wait_closed()
            except (OSError, TimeoutError, asyncio.CancelledError):
                writer.transport.abort()
            if task is not None:
                self._tasks.discard(task)

    async def _serve(self, link: Link, number: int) -> None:
        keep = True
        while keep and (head := await link.head()) is not None:
            exchange = self._logged(link, number, head)
            try:
                keep = await self._exchange(link, exchange, head)
                exchange.complete = True
            finally:
                exchange.done = True
                self.log.changed()

    def _logged(self, link: Link, number: int, head: Head) -> Exchange:
        tls = link.writer.get_extra_info("ssl_object")
        peer = link.writer.get_extra_info("peername") or ("", 0)
        exchange = Exchange(
            sequence=self._sequence,
            connection=number,
            peer=(peer[0], peer[1]),
            method=head.method,
            target=head.target,
            version=head.version,
            headers=head.headers,
            tls_version=tls.version() if tls is not None else None,
        )
        self._sequence += 1
        self.log.add(exchange)
        return exchange

    async def _exchange(self, link: Link, exchange: Exchange, head: Head) -> bool:
        """One request and its answer; returns whether the connection serves another."""
        behaviour = self.script.behaviour_for(exchange)
        request = Request(exchange, behaviour.hide_headers, link)
        if behaviour.drop is Drop.BEFORE_READING:
            await link.end(behaviour.reset)
        if exchange.header("expect") == "100-continue":
            await link.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if behaviour.drop is Drop.AFTER_READING:
            await _drain(request)
            await link.end(behaviour.reset)
        given = behaviour.answer() if behaviour.answer else await self._handled(request)
        if given.tunnel is None:
            await _drain(request)
        self.log.changed()
        if behaviour.drop is Drop.AFTER_PROCESSING:
            await link.end(behaviour.reset)
        if behaviour.change is not None:
            given = behaviour.change(given)
        await asyncio.sleep(behaviour.delay)
        if behaviour.gate is not None:
            await behaviour.gate.passed()
        if given.status == 101 and given.tunnel is not None:
            await link.write(_head_bytes(given, close=False))
            exchange.status = 101
            self.log.changed()
            await given.tunnel(Tunnel(link.reader, link.writer, link.leftover))
            return False
        return await self._send(link, exchange, head, given, behaviour)

    async def _handled(self, request: Request) -> Answer:
        try:
            return await self._handler(request)
        except (Gone, OSError, TimeoutError, httptools.HttpParserError):
            raise
        except Exception as error:
            self.failures.append(error)
            return Answer(500, [("Content-Length", "0")])

    async def _send(
        self, link: Link, exchange: Exchange, head: Head, given: Answer, behaviour: Behaviour
    ) -> bool:
        bodiless = head.method == "HEAD" or given.status in (204, 304)
        chunked = given.header("transfer-encoding") == "chunked"
        declared = given.header("content-length")
        honest = bodiless or chunked or declared == str(given.body_length)
        keep = head.keep_alive and not head.upgrade and honest
        start = _head_bytes(given, close=not keep and declared is not None)
        if given.pace is not None:
            await given.pace.take(len(start))
        await link.write(start)
        exchange.status = given.status
        self.log.changed()
        if bodiless:
            return keep
        await self._send_body(link, exchange, given, behaviour, chunked)
        if chunked:
            await link.write(b"0\r\n\r\n")
        return keep

    async def _send_body(
        self, link: Link, exchange: Exchange, given: Answer, behaviour: Behaviour, chunked: bool
    ) -> None:
        lines = [given.pace] if given.pace is not None else []
        if behaviour.bits_per_second is not None:
            lines.append(Uplink(behaviour.bits_per_second))

        async def stop() -> None:
            if exchange.sent == behaviour.stall_after and behaviour.stall is not None:
                await link.flush()
                await behaviour.stall.passed()
            if exchange.sent == behaviour.cut_after:
                await link.end(behaviour.reset)

        body = Slice.whole(BytesBlob(given.body)) if isinstance(given.body, bytes) else given.body
        stops = (behaviour.stall_after, behaviour.cut_after)
        for piece in _pieces(body, PIECE if lines else SEND, stops):
            await stop()
            for line in lines:
                await line.take(len(piece))
            await link.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            exchange.sent += len(piece)
        await stop()


def _pieces(body: Slice, size: int, stops: tuple[int | None, ...]) -> Iterator[bytes]:
    """The body in pieces of at most `size`, none of which reaches across a stop."""
    at = 0
    for stop in [*sorted({s for s in stops if s is not None and s < body.length}), body.length]:
        yield from Slice(body.blob, body.start + at, stop - at).pieces(size)
        at = stop


def _head_bytes(given: Answer, close: bool) -> bytes:
    reason = given.reason
    if reason is None:
        reason = http.HTTPStatus(given.status).phrase
    fields = [*given.headers, ("Connection", "close")] if close else given.headers
    lines = [f"HTTP/1.1 {given.status} {reason}", *(f"{name}: {value}" for name, value in fields)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _drain(request: Request) -> None:
    """Reads what a handler left of the body, so that the connection can go on."""
    async for _ in request.chunks():
        pass
