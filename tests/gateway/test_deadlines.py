"""Every wait has a deadline, and what is slow but alive is left alone."""

import socket
import threading
import time

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.messages import asking, telling
from tests.support.scripted import Peer, connect, scripted_server
from tests.support.served import Dial, Start
from tests.support.stage import Leave, Received, Stage

CONFIG = {
    "Limits": {
        "Handshake": "1s",
        "FirstRequest": "1s",
        "RequestHead": "1s",
        "BodyProgress": "1s",
        "Connect": "1s",
        "ApiFirstByte": "1s",
        "DownloadFirstByte": "3s",
        "KeepAlive": "1s",
    }
}
LATE = 2.5
"""Seconds within which a deadline of one second must have been kept on a busy machine."""


class Elapsed:
    def __init__(self) -> None:
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def test_a_tls_handshake_that_stands_still_is_ended(gateway: GatewayProcess) -> None:
    with connect(gateway.ports["https"]) as peer:
        peer.send(b"\x16\x03\x01")
        elapsed = Elapsed()
        assert peer.ended()
        assert 0.9 < elapsed.seconds < LATE


def test_a_tls_handshake_that_drips_is_ended(gateway: GatewayProcess) -> None:
    """The deadline is for the whole handshake, not for each byte."""
    with connect(gateway.ports["https"]) as peer:
        peer.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        elapsed = Elapsed()
        with pytest.raises(OSError):
            while elapsed.seconds < 10:
                peer.send(b"\0")
                if not peer.is_silent(0.1):
                    raise ConnectionResetError
        assert 0.9 < elapsed.seconds < LATE


@pytest.mark.parametrize("listener", ["http", "https"])
def test_a_connection_without_a_request_is_closed_silently(dial: Dial, listener: str) -> None:
    """A device that distrusts the certificate leaves its connection open."""
    peer = dial(listener)
    elapsed = Elapsed()
    assert peer.read_to_end() == (b"", True)
    assert 0.9 < elapsed.seconds < LATE


@pytest.mark.parametrize("listener", ["http", "https"])
def test_an_idle_connection_is_closed_silently(dial: Dial, listener: str) -> None:
    peer = dial(listener)
    peer.send(asking("/x"))
    assert peer.answer()[2] == b"ok"
    elapsed = Elapsed()
    assert peer.read_to_end() == (b"", True)
    assert 0.9 < elapsed.seconds < LATE


def test_empty_lines_do_not_keep_a_connection_open(dial: Dial) -> None:
    peer = dial()
    elapsed = Elapsed()
    received = b""
    while elapsed.seconds < 10:
        try:
            peer.send(b"\r\n")
            if not peer.is_silent(0.3):
                received = peer.read_to_end()[0]
                break
        except OSError:
            break
    assert elapsed.seconds < 2 * LATE
    assert b"HTTP/1.1 200" not in received


@pytest.mark.parametrize("listener", ["http", "https"])
def test_a_head_that_stands_still_is_answered_with_408(dial: Dial, listener: str) -> None:
    peer = dial(listener)
    peer.send(b"GET /x HTTP/1.1\r\nHost: gate")
    elapsed = Elapsed()
    status, head, body = peer.answer()
    assert status == 408
    assert 0.9 < elapsed.seconds < LATE
    assert b"\r\nConnection: close\r\n" in head
    assert b'"error":"request timeout"' in body
    assert peer.read_to_end() == (b"", True)


def test_a_head_that_drips_is_answered_with_408(dial: Dial) -> None:
    """The deadline is for the whole head: slow heads are an attack, no radio is that slow."""
    peer = dial()
    elapsed = Elapsed()
    head = asking("/x", b"X-Padding: " + b"x" * 5000)
    for byte in head:
        peer.send(bytes([byte]))
        if not peer.is_silent(0.05):
            break
    assert peer.answer()[0] == 408
    assert 0.9 < elapsed.seconds < LATE


def test_an_api_answer_that_does_not_begin_is_a_504(stage: Stage, dial: Dial, path: str) -> None:
    ended = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        assert peer.ended()
        ended.set()
        raise Leave

    stage.on(path, part)
    peer = dial()
    peer.send(asking(path))
    elapsed = Elapsed()
    status, _, body = peer.answer()
    assert status == 504
    assert 0.9 < elapsed.seconds < LATE
    assert b'"error":"upstream did not answer in time","request_id":"' in body
    assert ended.wait(10), "the upstream still works for nobody"
    peer.send(asking("/after"))
    assert peer.answer()[2] == b"ok"


def test_a_download_through_the_server_may_begin_later(stage: Stage, dial: Dial) -> None:
    path = "/api/devices/v1/deployments/download/configuration/3d1c/type/1"
    answer_now = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        answer_now.wait(1.8)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nla")
        answer_now.wait(1.8)
        peer.send(b"te")

    stage.on(path, part)
    peer = dial()
    peer.send(asking(path))
    assert peer.answer()[2] == b"late"


def test_a_head_that_the_upstream_does_not_finish_is_a_504(
    stage: Stage, dial: Dial, path: str
) -> None:
    def part(peer: Peer, request: Received) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-")
        assert peer.ended()
        raise Leave

    stage.on(path, part)
    peer = dial()
    peer.send(asking(path))
    elapsed = Elapsed()
    assert peer.answer()[0] == 504
    assert 0.9 < elapsed.seconds < LATE


def test_a_body_that_the_upstream_does_not_finish_aborts_the_answer(
    stage: Stage, dial: Dial, path: str
) -> None:
    def part(peer: Peer, request: Received) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun")
        assert peer.ended()
        raise Leave

    stage.on(path, part)
    peer = dial()
    peer.send(asking(path))
    assert peer.read_until(b"begun")
    elapsed = Elapsed()
    assert not peer.read_to_end()[1]
    assert elapsed.seconds < LATE


def test_a_slow_but_living_answer_takes_the_time_it_needs(
    stage: Stage, dial: Dial, path: str
) -> None:
    pause = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        data = telling(b"slowly", b"X-Slow: 1")
        head, body = data[:-6], data[-6:]
        for piece in (head[:9], head[9:20], head[20:], *(body[n : n + 1] for n in range(6))):
            pause.wait(0.4)
            peer.send(piece)

    stage.on(path, part)
    peer = dial()
    peer.send(asking(path))
    assert peer.answer()[2] == b"slowly"


def test_a_server_that_does_not_take_connections_is_a_504(start: Start) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        try:
            for _ in range(3):  # the kernel's queue is full now and drops what comes
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
                fillers.append(filler)
            gateway = start(f"http://127.0.0.1:{full.getsockname()[1]}", CONFIG)
            with connect(gateway.ports["http"]) as peer:
                elapsed = Elapsed()
                peer.send(asking("/x"))
                status, _, body = peer.answer()
        finally:
            for filler in fillers:
                filler.close()
    assert status == 504
    assert b"within the deadline" in body
    assert 0.9 < elapsed.seconds < LATE


def test_a_server_that_does_not_finish_its_handshake_is_a_504(start: Start) -> None:
    with scripted_server(lambda peer: peer.read_to_end() and None) as silent:
        gateway = start(f"https://127.0.0.1:{silent.port}", CONFIG)
        with connect(gateway.ports["http"]) as peer:
            elapsed = Elapsed()
            peer.send(asking("/x"))
            assert peer.answer()[0] == 504
            assert 0.9 < elapsed.seconds < LATE
