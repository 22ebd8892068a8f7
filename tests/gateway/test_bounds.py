"""Every collection has a bound, and what goes beyond it is told so or waits."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.messages import asking, chunked, telling
from tests.support.pki import ServerPki
from tests.support.scripted import Peer, connect
from tests.support.served import Start, with_https
from tests.support.stage import Received, Stage, eventually

FOUR = {"Limits": {"Connections": 4}}


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_the_connection_that_is_idle_longest_makes_room(
    start: Start, stage: Stage, used: bool
) -> None:
    gateway = start(stage.url, FOUR)
    idle = []
    for _ in range(4):
        peer = connect(gateway.ports["http"])
        idle.append(peer)
        if used:
            peer.send(asking("/x"))
            assert peer.answer()[2] == b"ok"
    with connect(gateway.ports["http"]) as fifth:
        fifth.send(asking("/fifth"))
        assert fifth.answer()[2] == b"ok"
        assert idle[0].read_to_end()[0] == b""
        for peer in idle[1:]:
            peer.send(asking("/still"))
            assert peer.answer()[2] == b"ok"
    for peer in idle:
        peer.close()


def test_connections_at_their_handshake_make_room_too(
    start: Start, stage: Stage, pki: ServerPki
) -> None:
    gateway = start(stage.url, with_https(pki), FOUR)
    silent = [connect(gateway.ports["https"]) for _ in range(12)]
    with connect(gateway.ports["https"], pki.client_context()) as peer:
        peer.send(asking("/x"))
        assert peer.answer()[2] == b"ok"
    for connection in silent:
        connection.close()


def test_connections_that_work_are_never_cut_and_newcomers_wait(
    start: Start, stage: Stage, path: str
) -> None:
    release = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        assert release.wait(20)
        peer.send(telling(b"worked"))

    stage.on(path, part)
    gateway = start(stage.url, FOUR)
    working = [connect(gateway.ports["http"]) for _ in range(4)]
    for peer in working:
        peer.send(asking(path))
    eventually(lambda: len(stage.of(path)) == 4)
    with connect(gateway.ports["http"]) as fifth:
        fifth.send(asking("/fifth"))
        assert fifth.is_silent(1.0)
        release.set()
        for peer in working:
            assert peer.answer()[2] == b"worked"
        assert fifth.answer()[2] == b"ok"
    for peer in working:
        peer.close()


def test_many_connections_at_once_are_all_served(start: Start, stage: Stage) -> None:
    """More than places: each idle one gives its place up, nobody is refused."""
    gateway = start(stage.url, {"Limits": {"Connections": 50}})

    def ask(number: int) -> bool:
        with connect(gateway.ports["http"]) as peer:
            peer.send(asking(f"/many/{number}", b"Connection: close"))
            return peer.read_to_end()[0].endswith(b"ok")

    with ThreadPoolExecutor(30) as pool:
        assert all(pool.map(ask, range(300)))


def test_head_and_json_bounds_are_configurable(start: Start, stage: Stage, path: str) -> None:
    inventory = "/api/devices/v1/inventory/device/attributes"
    system = {"Features": {"DeviceSystem": {"Enabled": True, "SystemID": "s"}}}
    gateway = start(stage.url, system, {"Limits": {"HeadBytes": 2000, "JsonBytes": 10_000}})
    with connect(gateway.ports["http"]) as peer:
        peer.send(asking(path, b"X: " + b"x" * 1800))
        assert peer.answer()[2] == b"ok"
        peer.send(asking(path, b"X: " + b"x" * 2000))
        status, head, body = peer.answer()
        assert status == 431
        assert b"\r\nConnection: close\r\n" in head
        assert b'"error":"request header fields too large"' in body
    stage.answer(path + "/big", telling(b"", b"X: " + b"x" * 2000))
    with connect(gateway.ports["http"]) as peer:
        peer.send(asking(path + "/big"))
        assert peer.answer()[0] == 502
    report = b'[{"name":"a","value":"%b"}]' % (b"b" * 9_900)
    for message, expected in (
        (asking(inventory, method=b"PUT", body=report), 200),
        (asking(inventory, method=b"PUT", body=report + b" " * 200), 413),
        (asking(inventory, b"Transfer-Encoding: chunked", method=b"PUT")
         + chunked(report + b" " * 200, 1000), 413),
        (asking(path, method=b"PUT", body=bytes(1_000_000)), 200),
    ):  # fmt: skip
        with connect(gateway.ports["http"]) as peer:
            peer.send(message)
            assert peer.answer()[0] == expected
