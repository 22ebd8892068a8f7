"""One connection of the demo's server: bytes in, events out, and the ways to end it.

llhttp's callbacks become a queue of heads, body bytes and message ends, so that requests stream
and pipelined ones simply wait their turn. Every wait has a deadline, except in a tunnel.
"""

import asyncio
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import NoReturn

import httptools

READ = 64 * 1024
IDLE = 120.0
"""Seconds that a connection may be silent before or inside a request."""
STUCK = 600.0
"""Seconds that a client may take no byte of an answer."""
SEND = 128 * 1024
"""Bytes written at once, and most bytes that wait for the kernel."""


class Gone(Exception):
    """The connection is over: ended by the client, or by a script."""


@dataclass(frozen=True, slots=True)
class Head:
    method: str
    target: str
    version: str
    headers: tuple[tuple[str, str], ...]
    keep_alive: bool
    upgrade: bool


class Events:
    """llhttp's callbacks as a queue of `Head`, body bytes and None for the end of a message."""

    def __init__(self) -> None:
        self.queue: deque[Head | bytes | None] = deque()
        self.parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: list[tuple[str, str]] = []

    def on_message_begin(self) -> None:
        self._target, self._headers = b"", []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.queue.append(
            Head(
                method=self.parser.get_method().decode("latin-1"),
                target=self._target.decode("latin-1"),
                version=self.parser.get_http_version(),
                headers=tuple(self._headers),
                keep_alive=self.parser.should_keep_alive(),
                upgrade=self.parser.should_upgrade(),
            )
        )

    def on_body(self, body: bytes) -> None:
        self.queue.append(body)

    def on_message_complete(self) -> None:
        self.queue.append(None)


class Tunnel:
    """The raw connection after a 101: what was read too much comes first."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, leftover: bytes
    ) -> None:
        self._reader, self._writer, self._leftover = reader, writer, leftover

    async def read(self, size: int = READ) -> bytes:
        """Some bytes; empty at the end. Waits without a deadline: tunnels are silent for long."""
        if self._leftover:
            data, self._leftover = self._leftover[:size], self._leftover[size:]
            return data
        return await self._reader.read(size)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(STUCK):
            await self._writer.drain()

    def cut(self) -> None:
        self._writer.transport.abort()


class Link:
    """One connection: reads events, writes answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.events = Events()
        self.tls = writer.get_extra_info("ssl_object") is not None
        self.leftover = b""
        self._ended = True
        writer.transport.set_write_buffer_limits(high=SEND)

    async def head(self) -> Head | None:
        """The next request's head, None at the end of the connection."""
        event = await self._event()
        while event is not None and not isinstance(event, Head):
            event = await self._event()
        self._ended = False
        return event if isinstance(event, Head) else None

    async def body_event(self) -> bytes | None:
        if self._ended:
            return None
        event = await self._event()
        if event is None:
            self._ended = True
            return None
        if isinstance(event, Head):
            raise Gone("a head inside a body")
        return event

    async def _event(self) -> Head | bytes | None:
        while not self.events.queue:
            async with asyncio.timeout(IDLE):
                data = await self.reader.read(READ)
            if not data:
                raise Gone("ended by the client")
            try:
                self.events.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self.leftover = data[upgrade.args[0] :]
        return self.events.queue.popleft()

    async def write(self, data: bytes) -> None:
        if self.writer.transport.is_closing():
            raise Gone("ended by the client")
        self.writer.write(data)
        async with asyncio.timeout(STUCK):
            await self.writer.drain()

    async def flush(self) -> None:
        """Waits until everything written is with the kernel, or under TLS nearly so."""
        # asyncio's TLS transports never come out of a limit of 0.
        self.writer.transport.set_write_buffer_limits(high=1 if self.tls else 0)
        async with asyncio.timeout(STUCK):
            await self.writer.drain()
        self.writer.transport.set_write_buffer_limits(high=SEND)

    async def end(self, reset: bool) -> NoReturn:
        """Ends the connection after what was written: FIN, or RST."""
        if reset:
            raw: socket.socket = self.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            await self.flush()
        if self.tls and not reset:
            self.writer.transport.close()  # what is left goes first, then the end of TLS
        else:
            self.writer.transport.abort()
        raise Gone("ended by a script")
