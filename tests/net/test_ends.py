"""Connections that end while they are made, secured or read: nothing of them stays behind."""

import asyncio
import gc
import socket
import ssl
import struct
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop

from mender_gateway.net.outbound import Connector
from mender_gateway.net.poller import Poller
from mender_gateway.net.stream import Stream
from mender_gateway.net.tls import client_context
from tests.support.pki import ServerPki, make_server_pki


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> ServerPki:
    return make_server_pki(tmp_path_factory.mktemp("pki"))


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection, the first one non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = socket.create_connection(listener.getsockname(), 20.0)
        sock, _ = listener.accept()
    sock.setblocking(False)
    return sock, other


def streams() -> int:
    gc.collect()
    return sum(isinstance(thing, Stream) for thing in gc.get_objects())


async def gives_up(connector: Connector, address: tuple[str, int]) -> bool:
    try:
        await connector.connect(*address, None, 0.3)
    except TimeoutError:
        return True
    return False


def test_a_connect_that_is_given_up_leaves_nothing_behind() -> None:
    async def main() -> None:
        poller = Poller(asyncio.get_running_loop())
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            with socket.create_connection(full.getsockname()):  # the queue is full: no more answers
                before = streams()
                trying = gives_up(Connector(poller), full.getsockname())
                assert await asyncio.create_task(trying)
                del trying
                assert streams() == before
        poller.close()

    run(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_client_that_resets_behind_its_hello_is_simply_gone(pki: ServerPki) -> None:
    """Python cannot put TLS on a connection that is over, and takes its descriptor away."""

    async def main() -> None:
        poller = Poller(asyncio.get_running_loop())
        for _ in range(3):  # the descriptor is had again
            sock, other = tcp_pair()
            stream = Stream(sock, poller, "127.0.0.1")
            other.sendall(b"\x16\x03\x01\x02\x00")
            await stream.wait_readable(5.0)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            other.close()
            with pytest.raises(OSError):
                stream.secure(pki.server_context())
            await stream.linger()
            stream.close()
        sock, other = tcp_pair()
        with other:
            stream = Stream(sock, poller, "127.0.0.1")
            other.sendall(b"!")
            assert await stream.receive(5.0) == b"!"
            stream.close()
        poller.close()

    run(main())


def test_a_stream_may_end_after_its_poller() -> None:
    async def main() -> None:
        poller = Poller(asyncio.get_running_loop())
        sock, other = tcp_pair()
        with other:
            stream = Stream(sock, poller, "127.0.0.1")
            stream.heed()
            poller.close()
            stream.close()
            assert other.recv(1) == b""

    run(main())


class Client:
    """A TLS client whose records are bytes that the test sends as it likes."""

    def __init__(self, pki: ServerPki, sock: socket.socket) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = pki.client_context()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self._sock = sock

    def handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._sock.sendall(self._out.read())
                self._in.write(self._sock.recv(1 << 16))
            finally:
                self._sock.sendall(self._out.read())

    def record(self, data: bytes) -> bytes:
        self._tls.write(data)
        return self._out.read()


def test_a_record_that_comes_byte_by_byte_does_not_put_off_the_deadline(pki: ServerPki) -> None:
    async def main() -> None:
        poller = Poller(asyncio.get_running_loop())
        sock, other = tcp_pair()
        with other:
            stream = Stream(sock, poller, "127.0.0.1")
            stream.secure(pki.server_context())
            client = Client(pki, other)
            shaking = asyncio.create_task(asyncio.to_thread(client.handshake))
            await stream.handshake(10.0)
            await shaking
            record = client.record(b"GET / HTTP/1.1\r\n" * 100)
            receiving = asyncio.create_task(stream.receive(0.6))
            for byte in record[:-1]:
                other.send(bytes([byte]))
                await asyncio.wait({receiving}, timeout=0.2)
                if receiving.done():
                    break
            with pytest.raises(TimeoutError):
                await receiving
            stream.abort()
        poller.close()

    run(main())


def test_servers_cannot_renegotiate() -> None:
    """A write would wait for the server's hello, which may never come."""
    assert client_context(None, False).options & ssl.OP_NO_RENEGOTIATION
