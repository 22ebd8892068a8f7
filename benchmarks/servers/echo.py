"""An upstream for tunnels: agrees to every Upgrade and sends back whatever comes.

Run as a program, `python -m benchmarks.servers.echo PORT`; it listens on loopback.
"""

import asyncio
import base64
import hashlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.machine import ROOT
from benchmarks.processes import Server, free_port, running

_KEY = re.compile(rb"\r\nsec-websocket-key: *([^\r]+)", re.IGNORECASE)
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class _Echo(asyncio.Protocol):
    def __init__(self) -> None:
        self._head: bytes | None = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        if self._head is not None:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head = None
            transport.write(_agreed(head))
        if data:
            transport.write(data)


def _agreed(head: bytes) -> bytes:
    key = _KEY.search(head)
    # RFC 6455 4.2.2: the hash is fixed by the protocol.
    proof = hashlib.sha1((key[1] if key else b"") + _MAGIC, usedforsecurity=False).digest()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % base64.b64encode(proof)
    )


@contextmanager
def echo(folder: Path) -> Iterator[Server]:
    ports = {"http": free_port()}
    command = [sys.executable, "-m", "benchmarks.servers.echo", str(ports["http"])]
    environment = {"PYTHONPATH": str(ROOT)}
    with running("echo", command, folder, ports, environment) as server:
        yield server


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Echo, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
