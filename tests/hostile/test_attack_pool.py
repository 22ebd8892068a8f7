"""Upstreams that end, answer or speak when they should not: no place is lost, nobody waits."""

import threading

from tests.support.messages import asking, telling
from tests.support.scripted import Peer, connect
from tests.support.served import Start
from tests.support.stage import Leave, Received, Stage

HEALTH = "/api/internal/v1/gateway/health"


def test_a_health_check_on_a_dead_connection_costs_no_place(
    start: Start, stage: Stage, path: str
) -> None:
    """The upstream ends a kept connection when the check arrives on it."""
    first = threading.Event()
    together = threading.Barrier(2, timeout=20)

    def root(peer: Peer, request: Received) -> None:
        if not first.is_set():
            first.set()
            raise Leave
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def both(peer: Peer, request: Received) -> None:
        together.wait()
        peer.send(telling(b"both"))

    stage.on("/", root)
    stage.on(path + "/both", both)
    limits = {"Limits": {"UpstreamConnections": 2, "Connect": "3s"}}
    gateway = start(stage.url, limits)
    with connect(gateway.ports["http"]) as one, connect(gateway.ports["http"]) as two:
        one.send(asking(path))
        assert one.answer()[2] == b"ok"
        one.send(asking(HEALTH))
        assert one.answer()[0] == 204
        assert first.is_set()
        assert len(stage.of("/")) == 2, "the check was made again"
        one.send(asking(path + "/both"))
        two.send(asking(path + "/both"))
        assert [one.answer()[2], two.answer()[2]] == [b"both", b"both"]


def test_open_tunnels_leave_the_places_for_requests(start: Start, stage: Stage, path: str) -> None:
    """Every device may hold a terminal's connection for days, without using it."""

    def tunnel(peer: Peer, request: Received) -> None:
        peer.send(b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        peer.send(peer.read_exactly(4))
        peer.ended()
        raise Leave

    stage.on(path + "/ws", tunnel)
    gateway = start(stage.url, {"Limits": {"UpstreamConnections": 2, "Connect": "2s"}})
    upgrade = asking(path + "/ws", b"Connection: Upgrade", b"Upgrade: websocket")
    peers = [connect(gateway.ports["http"]) for _ in range(5)]
    try:
        for peer in peers:
            peer.send(upgrade)
            assert peer.read_head().startswith(b"HTTP/1.1 101 ")
            peer.send(b"ping")
            assert peer.read_exactly(4) == b"ping"
        with connect(gateway.ports["http"]) as other:
            other.send(asking(path))
            assert other.answer()[2] == b"ok"
    finally:
        for peer in peers:
            peer.close()
    with connect(gateway.ports["http"]) as other:
        for _ in range(5):
            other.send(asking(path))
            assert other.answer()[2] == b"ok"
