"""WebSockets and other upgrades: bytes pass both ways once the upstream has agreed."""

import os
import socket
import ssl
import threading

import pytest

from tests.support.messages import asking, telling
from tests.support.pki import ServerPki
from tests.support.scripted import Peer, connect
from tests.support.served import Dial, Start, with_https
from tests.support.stage import Leave, Part, Received, Stage, eventually, running_stage

CONFIG = {"Limits": {"KeepAlive": "1s", "BodyProgress": "1s", "WriteStall": "1s"}}
UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: hzGmUDBufQAP5Q==")
AGREED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: kOo3dC6z1s=\r\n\r\n"
)


def agreeing(then: Part) -> Part:
    def part(peer: Peer, request: Received) -> None:
        peer.send(AGREED)
        then(peer, request)
        raise Leave

    return part


def echo(peer: Peer, request: Received) -> None:
    while data := peer.read_some():
        peer.send(data)


@pytest.mark.parametrize("listener", ["http", "https"])
@pytest.mark.parametrize("path", ["/api/devices/v1/deviceconnect/connect", "/any/other"])
def test_bytes_pass_both_ways_after_101(stage: Stage, dial: Dial, path: str, listener: str) -> None:
    stage.on(path, agreeing(echo))
    before = len(stage.of(path))
    peer = dial(listener)
    peer.send(asking(path, b"Authorization: Bearer e.y.J", *UPGRADE))
    head = peer.read_head()
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"\r\nSec-WebSocket-Accept: kOo3dC6z1s=\r\n" in head
    assert b"\r\nConnection: Upgrade\r\n" in head
    assert b"\r\nUpgrade: websocket\r\n" in head
    for message in (b"\x82\x05hello", bytes(range(256)) * 1000, b"\0"):
        peer.send(message)
        assert peer.read_exactly(len(message)) == message
    request = stage.of(path)[before]
    assert request.values(b"Connection") == [b"Upgrade"]
    assert request.values(b"Upgrade") == [b"websocket"]
    assert request.values(b"Sec-WebSocket-Key") == [b"hzGmUDBufQAP5Q=="]
    assert request.values(b"Authorization") == [b"Bearer e.y.J"]


def test_megabytes_pass_both_ways_at_once(stage: Stage, dial: Dial, path: str) -> None:
    stage.on(path, agreeing(echo))
    peer = dial()
    peer.send(asking(path, *UPGRADE))
    assert peer.read_head()
    data = os.urandom(5_000_000)
    sender = threading.Thread(target=peer.send, args=(data,))
    sender.start()
    assert peer.read_exactly(len(data)) == data
    sender.join(20)


def test_early_bytes_of_the_device_wait_for_101(stage: Stage, dial: Dial, path: str) -> None:
    agree = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        assert peer.is_silent(0.4), "bytes of an undecided protocol went upstream"
        agree.set()
        peer.send(AGREED)
        assert peer.read_exactly(9) == b"too early"
        peer.send(b"heard")
        raise Leave

    stage.on(path, part)
    peer = dial()
    peer.send(asking(path, *UPGRADE) + b"too early")
    assert agree.wait(20)
    assert peer.read_head().startswith(b"HTTP/1.1 101 ")
    assert peer.read_exactly(5) == b"heard"


def test_bytes_that_come_in_one_segment_with_101_are_passed_on(
    stage: Stage, dial: Dial, path: str
) -> None:
    def part(peer: Peer, request: Received) -> None:
        peer.send(b"HTTP/1.1 102 Processing\r\n\r\n" + AGREED + b"at once")
        peer.read_to_end()
        raise Leave

    stage.on(path, part)
    peer = dial()
    peer.send(asking(path, *UPGRADE))
    assert peer.read_head().startswith(b"HTTP/1.1 101 ")
    assert peer.read_exactly(7) == b"at once"


@pytest.mark.parametrize("status", [b"200 OK", b"401 Unauthorized", b"404 Not Found", b"503 Busy"])
def test_any_other_answer_leaves_the_connection_with_http(
    stage: Stage, dial: Dial, path: str, status: bytes
) -> None:
    stage.answer(path, telling(b"no", status=status))
    peer = dial()
    hidden = asking("/hidden-behind-upgrade")
    peer.send(asking(path, *UPGRADE) + hidden)
    code, head, body = peer.answer()
    assert (code, body) == (int(status[:3]), b"no")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert peer.answer()[2] == b"ok"  # the next request, read as one


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param((b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"), id="h2c"),
        pytest.param((b"Connection: upgrade", b"Upgrade: H2C"), id="H2C"),
        pytest.param((b"Connection: Upgrade", b"Upgrade: h2c, websocket"), id="h2c, websocket"),
        pytest.param((b"Connection: Upgrade", b"Upgrade: websocket,h2c"), id="websocket,h2c"),
        pytest.param((b"Connection: Upgrade", b"Upgrade: foo", b"Upgrade: h2c"), id="two fields"),
        pytest.param((b"Connection: Upgrade", b"Upgrade: HTTP/2.0"), id="HTTP/2.0"),
        pytest.param((b"Connection: Upgrade", b"Upgrade: TLS/1.2, HTTP/1.1"), id="TLS"),
        pytest.param((b"Upgrade: websocket",), id="not named in Connection"),
        pytest.param((b"Connection: Upgrade",), id="no Upgrade"),
        pytest.param((b"Connection: Upgrade", b"Upgrade: "), id="empty Upgrade"),
        pytest.param((*UPGRADE, b"Content-Length: 5"), id="with a body"),
        pytest.param((*UPGRADE, b"Transfer-Encoding: chunked"), id="with a chunked body"),
    ],
)
def test_what_is_no_upgrade_for_us_goes_as_an_ordinary_request(
    stage: Stage, dial: Dial, path: str, fields: tuple[bytes, ...]
) -> None:
    """A tunnel of HTTP/2 would lead past the gateway's rules, even if offered beside others."""
    peer = dial()
    body = b""
    if b"Content-Length: 5" in fields:
        body = b"hello"
    elif b"Transfer-Encoding: chunked" in fields:
        body = b"5\r\nhello\r\n0\r\n\r\n"
    peer.send(asking(path, b"HTTP2-Settings: AAMAAABk", *fields) + body)
    assert peer.answer()[2] == b"ok"
    request = stage.one(path)
    for name in (b"Upgrade", b"Connection", b"HTTP2-Settings"):
        assert request.values(name) == []
    assert request.body == (b"hello" if body else b"")


def test_http_1_0_knows_no_upgrade(stage: Stage, dial: Dial, path: str) -> None:
    peer = dial()
    peer.send(asking(path, *UPGRADE, version=b"1.0"))
    assert peer.answer()[2] == b"ok"
    assert stage.one(path).values(b"Upgrade") == []


def test_an_upgrade_nobody_asked_for_is_a_502(stage: Stage, dial: Dial, path: str) -> None:
    stage.on(path, agreeing(echo))
    peer = dial()
    peer.send(asking(path))
    assert peer.answer()[0] == 502


def test_an_upgrade_to_something_else_than_asked_for_is_a_502(
    stage: Stage, dial: Dial, path: str
) -> None:
    def part(peer: Peer, request: Received) -> None:
        peer.send(AGREED.replace(b"websocket", b"h2c"))
        raise Leave

    stage.on(path, part)
    peer = dial()
    peer.send(asking(path, *UPGRADE))
    assert peer.answer()[0] == 502


@pytest.mark.parametrize("listener", ["http", "https"])
def test_an_idle_tunnel_outlives_every_deadline_of_requests(
    stage: Stage, dial: Dial, path: str, listener: str
) -> None:
    stage.on(path, agreeing(echo))
    peer = dial(listener)
    peer.send(asking(path, *UPGRADE))
    assert peer.read_head()
    for _ in range(2):
        assert peer.is_silent(2.0)
        peer.send(b"still here")
        assert peer.read_exactly(10) == b"still here"


def test_half_a_close_leaves_the_other_direction_open(stage: Stage, dial: Dial, path: str) -> None:
    def part(peer: Peer, request: Received) -> None:
        assert peer.read_to_end() == (b"question", True)
        peer.send(b"long answer" * 1000)

    stage.on(path, agreeing(part))
    peer = dial()
    peer.send(asking(path, *UPGRADE) + b"question")
    assert peer.read_head()
    peer.finish()
    assert peer.read_to_end() == (b"long answer" * 1000, True)


@pytest.mark.parametrize("listener", ["http", "https"])
@pytest.mark.parametrize("end", [Peer.close, Peer.reset], ids=["close", "reset"])
def test_the_end_of_one_side_ends_the_other(
    stage: Stage, dial: Dial, path: str, listener: str, end: object
) -> None:
    assert callable(end)
    upstream_ended = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        peer.read_to_end()
        upstream_ended.set()

    def leaving(peer: Peer, request: Received) -> None:
        peer.send(b"last words")
        end(peer)

    stage.on(path, agreeing(part))
    peer = dial(listener)
    peer.send(asking(path, *UPGRADE))
    assert peer.read_head()
    end(peer)
    assert upstream_ended.wait(10)
    stage.on(path + "/other", agreeing(leaving))
    peer = dial(listener)
    peer.send(asking(path + "/other", *UPGRADE))
    assert peer.read_head()
    assert peer.read_until(b"last words")
    if isinstance(peer.sock, ssl.SSLSocket) or end is Peer.reset:
        peer.read_to_end()
    else:
        assert peer.read_to_end() == (b"", True)


def test_a_device_that_takes_nothing_ends_its_tunnel(stage: Stage, dial: Dial, path: str) -> None:
    ended = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        try:
            while True:
                peer.send(bytes(100_000))
        except TimeoutError:
            raise
        except OSError:
            ended.set()

    stage.on(path, agreeing(part))
    peer = dial(receive_buffer=16384)
    peer.send(asking(path, *UPGRADE))
    assert peer.read_head()
    assert ended.wait(15)


@pytest.mark.parametrize("listener", ["http", "https"])
def test_tunnels_are_closed_politely_at_the_end(
    start: Start, stage: Stage, pki: ServerPki, path: str, listener: str
) -> None:
    ends: list[tuple[bytes, bool]] = []

    def part(peer: Peer, request: Received) -> None:
        ends.append(peer.read_to_end())

    stage.on(path, agreeing(part))
    gateway = start(stage.url, with_https(pki))
    context = pki.client_context() if listener == "https" else None
    with connect(gateway.ports[listener], context) as peer:
        peer.send(asking(path, *UPGRADE))
        assert peer.read_head()
        assert gateway.stop(timeout=10) == 0
        assert peer.read_to_end() == (b"", True)
    eventually(lambda: ends == [(b"", True)])


def test_a_tunnel_over_tls_to_the_upstream(start: Start, pki: ServerPki, path: str) -> None:
    with running_stage(pki.server_context()) as stage:
        stage.on(path, agreeing(echo))
        layer = {"UpstreamServer": {"CACertificate": str(pki.ca)}}
        gateway = start(stage.url, with_https(pki), layer)
        with connect(gateway.ports["https"], pki.client_context()) as peer:
            peer.send(asking(path, *UPGRADE))
            assert peer.read_head().startswith(b"HTTP/1.1 101 ")
            for size in (1, 1000, 100_000):
                peer.send(bytes(size))
                assert peer.read_exactly(size) == bytes(size)


def test_an_upstream_that_cannot_be_reached_is_a_502(start: Start, path: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    gateway = start(url)
    with connect(gateway.ports["http"]) as peer:
        peer.send(asking(path, *UPGRADE))
        assert peer.answer()[0] == 502
