"""A TLS connection that breaks is no concern of the others that the same thread serves."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from mender_gateway.net.poller import Poller
from mender_gateway.net.stream import Stream
from tests.support.pki import ServerPki, make_server_pki

PIECE = bytes(65536)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> ServerPki:
    return make_server_pki(tmp_path_factory.mktemp("pki"))


def tls_pair(pki: ServerPki) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Both ends, the first one non-blocking, as servers have it."""
    here, there = socket.socketpair()
    ends: list[ssl.SSLSocket] = []

    def join() -> None:
        ends.append(pki.client_context().wrap_socket(there, server_hostname="127.0.0.1"))

    thread = threading.Thread(target=join)
    thread.start()
    sock = pki.server_context().wrap_socket(here, server_side=True)
    thread.join()
    sock.setblocking(False)
    return sock, ends[0]


def fill(stream: Stream) -> None:
    while stream.try_send(PIECE):
        pass


def send_into_the_void(stream: Stream) -> None:
    with pytest.raises(OSError):
        fill(stream)


def receive_from_the_void(stream: Stream) -> None:
    with suppress(OSError):  # or the end: Pythons differ
        while stream.try_receive() is None:
            pass


def look_into_the_void(stream: Stream) -> None:
    assert stream.ended()


def close(stream: Stream) -> None:
    stream.close()


@pytest.mark.parametrize(
    "notice", [send_into_the_void, receive_from_the_void, look_into_the_void, close]
)
def test_a_broken_connection_breaks_no_other_one(
    notice: Callable[[Stream], None], pki: ServerPki
) -> None:
    async def main() -> None:
        poller = Poller(asyncio.get_running_loop())
        broken, far = tls_pair(pki)
        healthy, other = tls_pair(pki)
        with far, other:
            one, two = Stream(broken, poller), Stream(healthy, poller)
            fill(two)
            socket.socket.shutdown(broken, socket.SHUT_RDWR)
            notice(one)
            assert two.try_send(PIECE) == 0, "it would have to wait, and nothing else"
            assert two.try_receive() is None
            one.abort()
            two.abort()
        poller.close()

    asyncio.run(main())
