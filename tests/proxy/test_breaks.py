"""An answer that breaks off reaches the device as a broken connection, never as a short answer."""

import ssl
import threading
from collections.abc import Iterator

import pytest

from tests.support.messages import asking, chunked, telling
from tests.support.pki import ServerPki
from tests.support.scripted import Peer, connect
from tests.support.served import Dial, Start
from tests.support.stage import Leave, Part, Received, Stage, eventually, running_stage

HEADS = {
    "counted": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "until close": b"HTTP/1.1 200 OK\r\n\r\n",
}
PIECE = b"x" * 40_000


def breaking_off(framing: str, how: str, go_on: threading.Event) -> Part:
    """Sends a head and a part of the body, and when told to `go_on` ends the connection."""

    def part(peer: Peer, request: Received) -> None:
        piece = chunked(PIECE, 10_000).removesuffix(b"0\r\n\r\n") if framing == "chunked" else PIECE
        peer.send(HEADS[framing] + piece)
        assert go_on.wait(20)
        match how:
            case "rst":
                peer.reset()
            case "fin":
                peer.close()
            case "garbage":
                peer.send(b"this is no chunk\r\n")
        raise Leave

    return part


@pytest.mark.parametrize(
    ("framing", "how"),
    [
        ("counted", "rst"),
        ("counted", "fin"),
        ("chunked", "rst"),
        ("chunked", "fin"),
        ("chunked", "garbage"),
        ("until close", "rst"),
    ],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("listener", ["http", "https"])
def test_an_answer_that_breaks_off_aborts_the_devices_connection(
    stage: Stage, dial: Dial, path: str, framing: str, how: str, version: bytes, listener: str
) -> None:
    go_on = threading.Event()
    stage.on(path, breaking_off(framing, how, go_on))
    peer = dial(listener)
    peer.send(asking(path, version=version, method=b"POST"))
    received = b""
    while received.count(b"x") < len(PIECE):
        received += peer.read_some()
    go_on.set()
    rest, clean = peer.read_to_end()
    assert not clean, "the device takes a part for the whole"
    assert b"0\r\n\r\n" not in rest
    assert b"HTTP/1.1 502" not in received + rest


@pytest.fixture(scope="module")
def secure(pki: ServerPki) -> Iterator[Stage]:
    with running_stage(pki.server_context()) as stage:
        yield stage


def to_secure(pki: ServerPki) -> dict[str, object]:
    return {"UpstreamServer": {"CACertificate": str(pki.ca)}}


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_an_answer_until_close_over_tls_is_whole_only_with_close_notify(
    start: Start, secure: Stage, pki: ServerPki, path: str, version: bytes
) -> None:
    def politely(peer: Peer, request: Received) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nwhole")
        assert isinstance(peer.sock, ssl.SSLSocket)
        try:
            peer.sock.unwrap().close()
        except OSError:
            peer.close()
        raise Leave

    def truncated(peer: Peer, request: Received) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        peer.finish()
        peer.read_to_end()
        raise Leave

    secure.on(path, politely)
    secure.on(path + "/cut", truncated)
    gateway = start(secure.url, to_secure(pki))
    with connect(gateway.ports["http"]) as peer:
        peer.send(asking(path, b"Connection: close", version=version))
        data, clean = peer.read_to_end()
        assert clean
        assert b"whole" in data
        assert version == b"1.0" or data.endswith(b"0\r\n\r\n")
    with connect(gateway.ports["http"]) as peer:
        peer.send(asking(path + "/cut", b"Connection: close", version=version))
        data, clean = peer.read_to_end()
        assert not clean
        assert not data.endswith(b"0\r\n\r\n")
    gateway.wait_for_log('level=warning msg="answer was cut off"')


def test_the_connections_of_other_devices_live_on(stage: Stage, dial: Dial, path: str) -> None:
    go_on = threading.Event()
    go_on.set()
    stage.on(path, breaking_off("counted", "rst", go_on))
    bystander, victim = dial(), dial()
    bystander.send(asking("/before"))
    assert bystander.answer()[2] == b"ok"
    victim.send(asking(path))
    assert not victim.read_to_end()[1]
    bystander.send(asking("/after"))
    assert bystander.answer()[2] == b"ok"


def test_a_device_that_leaves_takes_its_upstream_connection_with_it(
    stage: Stage, dial: Dial, path: str
) -> None:
    """The upstream must not send on for nobody, nor take a half upload for a whole one."""
    ends: list[bool] = []

    def sending(peer: Peer, request: Received) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while True:
                peer.send(bytes(1_000_000))
        except TimeoutError:
            raise
        except OSError:
            ends.append(True)
        raise Leave

    def taking(peer: Peer, request: Received) -> None:
        ends.append(not peer.read_to_end()[1])
        raise Leave

    stage.on(path, sending)
    reader = dial()
    reader.send(asking(path))
    reader.read_exactly(1_000_000)
    reader.reset()
    stage.on(path + "/up", taking)
    for framing in (b"Content-Length: 1000", b"Transfer-Encoding: chunked"):
        uploader = dial()
        uploader.send(asking(path + "/up", framing, method=b"POST") + b"3\r\nabc\r\n")
        uploader.close()
    eventually(lambda: len(ends) == 3)
    assert ends == [True] * 3


def test_an_answer_with_too_long_a_body_ends_where_its_length_says(
    stage: Stage, dial: Dial, path: str
) -> None:
    stage.answer(path, telling(b"right") + b"and more")
    peer = dial()
    for _ in range(3):
        peer.send(asking(path))
        assert peer.answer()[2] == b"right"
        assert peer.buffer == b""
