"""Messages in whatever portions they come: what is read at once is what would be read in turn."""

import array
import asyncio
import fcntl
import socket
import termios
from collections.abc import Callable, Coroutine
from typing import Any

import httptools
import pytest

from mender_gateway.config.settings import Endpoint, Limits
from mender_gateway.http.client import Client, Server
from mender_gateway.http.parser import HeadChecker, parse_request
from mender_gateway.http.wire import Wire
from mender_gateway.net.outbound import Connection
from mender_gateway.net.poller import Poller
from mender_gateway.net.stream import Stream

NEXT = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"
CODED = b"PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
REQUESTS = {
    "no body": (b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n", b""),
    "sized": (b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "one chunk": (CODED + b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "a chunk like an end": (CODED + b"7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n\r\n"),
    "zeros": (CODED + b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
    "extensions": (CODED + b"5;a=b\r\nhello\r\n0 ;c\r\n\r\n", b"hello"),
    "trailers": (CODED + b"5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n", b"hello"),
    "chunks": (CODED + b"1\r\nh\r\nA\r\nello hello\r\n0\r\n\r\n", b"hello hello"),
    "an empty body": (CODED + b"0\r\n\r\n", b""),
}
FINAL = b"HTTP/1.1 200 OK\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"
ANSWERS = {
    "sized": (b"GET", FINAL + b"Content-Length: 5\r\n\r\nhello", 200, b"hello"),
    "interim": (b"GET", INTERIM + FINAL + b"Content-Length: 5\r\n\r\nhello", 200, b"hello"),
    "one chunk": (
        b"GET",
        FINAL + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        200,
        b"hello",
    ),
    "no content": (b"PUT", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, b""),
    "head": (b"HEAD", FINAL + b"Content-Length: 5\r\n\r\n", 200, b""),
    "head, chunked": (b"HEAD", FINAL + b"Transfer-Encoding: chunked\r\n\r\n", 200, b""),
    "not modified": (b"GET", b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", 304, b""),
}


def queued(sock: socket.socket) -> int:
    """Bytes that have come and were not read."""
    count = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, count)
    return count[0]


type_of_reader = Callable[[Stream], Coroutine[Any, Any, Any]]


async def read_split(reader: type_of_reader, data: bytes, place: int, poller: Poller) -> object:
    """What `reader` makes of `data`, whose second part comes when the first was taken."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = socket.create_connection(listener.getsockname(), 20.0)
        sock, _ = listener.accept()
    sock.setblocking(False)
    stream = Stream(sock, poller, "127.0.0.1")
    with other:
        other.sendall(data[:place])
        reading = asyncio.create_task(reader(stream))
        while queued(sock) and not reading.done():
            await asyncio.sleep(0)
        other.sendall(data[place:])
        try:
            return await reading
        finally:
            stream.abort()


def at_every_place(reader: type_of_reader, data: bytes, wanted: object) -> None:
    async def main() -> None:
        poller = Poller(asyncio.get_running_loop())
        async with asyncio.timeout(60):
            for place in range(len(data) + 1):
                assert await read_split(reader, data, place, poller) == wanted, place
        poller.close()

    asyncio.run(main())


async def body_of(wire: Wire) -> bytes:
    body = wire.take_whole()
    if body is not None:
        return body
    body = b""
    while piece := await wire.read_body(10.0):
        body += piece
    return body


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_and_the_one_behind_it(kind: str) -> None:
    data, body = REQUESTS[kind]

    async def reader(stream: Stream) -> list[tuple[bytes, bytes]]:
        wire = Wire(stream, asyncio.get_running_loop())
        checker = HeadChecker(httptools.HttpRequestParser)
        seen = []
        for _ in range(2):
            head = wire.head_at_once(1000) or await wire.read_head(10.0, 10.0, 1000)
            assert head is not None
            request = parse_request(head, checker)
            wire.start_body(request.framing)
            seen.append((request.target, await body_of(wire)))
        assert wire.buffer == b""
        return seen

    at_every_place(reader, data + NEXT, [(b"/a", body), (b"/next", b"")])


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_and_what_is_behind_it(kind: str) -> None:
    method, data, status, body = ANSWERS[kind]

    async def reader(stream: Stream) -> tuple[int, bytes]:
        server = Server(Endpoint("http", "h", 80), None)
        client = Client(Connection(stream), server, Limits(), asyncio.get_running_loop())
        answer = client.answer_at_once(method) or await client.answer(method, 10.0)
        said = answer.status, await body_of(client)
        behind = client.buffer
        while len(behind) < 1:
            behind += await stream.receive(10.0)
        assert behind == b"!"
        return said

    at_every_place(reader, data + b"!", (status, body))
