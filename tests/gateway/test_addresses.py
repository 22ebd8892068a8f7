"""One address cannot take what is there for all; loopback has 16 million addresses to try it."""

import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from mender_gateway.net.origins import origin_of
from tests.support.messages import asking, telling
from tests.support.scripted import Peer, connect
from tests.support.served import METRICS, Start
from tests.support.stage import Received, Stage, eventually

CONNECTIONS = {"Limits": {"ConnectionsPerAddress": 3}}
REQUESTS = {"Limits": {"UpstreamConnectionsPerAddress": 2, "Connect": "1s"}}


def connect_from(address: str, port: int) -> Peer:
    return Peer(socket.create_connection(("127.0.0.1", port), 20, (address, 0)))


def works(peer: Peer, path: str = "/x") -> bool:
    peer.send(asking(path))
    return peer.answer()[2] == b"ok"


def waiting_part(stage: Stage, path: str, release: threading.Event) -> None:
    def part(peer: Peer, request: Received) -> None:
        assert release.wait(20)
        peer.send(telling(b"worked"))

    stage.on(path, part)


def test_an_address_beyond_its_bound_is_refused_and_others_are_not(
    start: Start, stage: Stage, path: str
) -> None:
    release = threading.Event()
    waiting_part(stage, path, release)
    gateway = start(stage.url, CONNECTIONS, METRICS)
    port = gateway.ports["http"]
    with ExitStack() as stack:
        busy = [stack.enter_context(connect_from("127.0.0.7", port)) for _ in range(3)]
        for peer in busy:
            peer.send(asking(path))
        eventually(lambda: len(stage.of(path)) == 3)
        assert stack.enter_context(connect_from("127.0.0.7", port)).ended()
        assert works(stack.enter_context(connect_from("127.0.0.8", port)))
        release.set()
        assert [peer.answer()[2] for peer in busy] == [b"worked"] * 3
        assert works(stack.enter_context(connect_from("127.0.0.7", port)))
    line = gateway.wait_for_log('msg="connections refused: one address has too many" .*')[0]
    assert "peer=127.0.0.7" in line
    assert "ConnectionsPerAddress" in line
    with connect(gateway.ports["metrics"]) as peer:
        peer.send(asking("/metrics"))
        assert b"\nmender_gateway_refused_connections_total 1.0\n" in peer.answer()[2]


def test_an_idle_connection_of_the_same_address_makes_room(start: Start, stage: Stage) -> None:
    gateway = start(stage.url, CONNECTIONS)
    port = gateway.ports["http"]
    with ExitStack() as stack:
        other = stack.enter_context(connect_from("127.0.0.8", port))
        assert works(other)
        idle = [stack.enter_context(connect_from("127.0.0.7", port)) for _ in range(3)]
        assert all(map(works, idle))
        for number in range(6):
            newcomer = stack.enter_context(connect_from("127.0.0.7", port))
            assert works(newcomer)
            assert idle[number].ended()
            idle.append(newcomer)
        assert works(other)
    assert "too many" not in gateway.log


def test_a_trusted_proxy_stands_for_many_devices(start: Start, stage: Stage, path: str) -> None:
    release = threading.Event()
    waiting_part(stage, path, release)
    gateway = start(stage.url, CONNECTIONS, REQUESTS, {"TrustedProxies": ["127.0.0.7"]})
    with ExitStack() as stack:
        port = gateway.ports["http"]
        busy = [stack.enter_context(connect_from("127.0.0.7", port)) for _ in range(6)]
        for peer in busy:
            peer.send(asking(path))
        eventually(lambda: len(stage.of(path)) == 6)
        release.set()
        assert [peer.answer()[2] for peer in busy] == [b"worked"] * 6


def test_slow_bodies_of_one_address_leave_the_upstream_to_others(
    start: Start, stage: Stage, path: str
) -> None:
    stage.answer(path, telling(b"taken"))
    gateway = start(stage.url, REQUESTS)
    port = gateway.ports["http"]
    with ExitStack() as stack:
        slow = [stack.enter_context(connect_from("127.0.0.7", port)) for _ in range(2)]
        for peer in slow:
            peer.send(asking(path, b"Content-Length: 2", method=b"PUT") + b"a")
        eventually(lambda: len(stage.of(path)) == 2)
        third = stack.enter_context(connect_from("127.0.0.7", port))
        third.send(asking("/y"))
        assert works(stack.enter_context(connect_from("127.0.0.8", port)))
        status, head, body = third.answer()
        assert status == 503
        assert b"\r\nRetry-After: " in head
        assert b"one address" in body
        # Whoever waits goes on as soon as a place is free.
        third.send(asking("/y"))
        slow[0].send(b"b")
        assert slow[0].answer()[2] == b"taken"
        assert third.answer()[2] == b"ok"
        slow[1].send(b"b")
        assert slow[1].answer()[2] == b"taken"
        for peer in (*slow, third):
            assert works(peer)


@pytest.mark.parametrize("what", ["next", "status"])
def test_slow_bodies_count_whatever_they_are_for(
    start: Start, stage: Stage, tmp_path: Path, what: str
) -> None:
    proxying = {
        "Features": {
            "ArtifactsProxy": {
                "Enabled": True,
                "GatewayURL": "http://gateway.example",
                "DomainWhitelist": ["s3.example"],
                "ArtifactsCache": {"Enabled": True, "Path": str(tmp_path / "cache")},
            }
        }
    }
    deployments = "/api/devices/v1/deployments/device/deployments"
    stage.answer(
        f"{deployments}/next",
        telling(
            b'{"id":"d1","artifact":{"id":"a","source":'
            b'{"uri":"https://s3.example/b/a","expire":"2027-01-01T00:00:00Z"}}}'
        ),
    )
    stage.answer(f"{deployments}/d1/status", telling(b"", status=b"204 No Content"))
    gateway = start(stage.url, REQUESTS, proxying)
    port = gateway.ports["http"]
    path = {"next": f"{deployments}/next", "status": f"{deployments}/d1/status"}[what]
    method = {"next": b"POST", "status": b"PUT"}[what]
    with ExitStack() as stack:
        peer = stack.enter_context(connect_from("127.0.0.8", port))
        peer.send(asking(f"{deployments}/next", method=b"POST", body=b"{}"))
        assert peer.answer()[0] == 200  # so that the deployment is known
        before = len(stage.of(path))
        slow = [stack.enter_context(connect_from("127.0.0.7", port)) for _ in range(2)]
        for peer in slow:
            peer.send(asking(path, b"Content-Length: 2", method=method) + b"{")
        eventually(lambda: len(stage.of(path)) == before + 2)
        third = stack.enter_context(connect_from("127.0.0.7", port))
        third.send(asking(path, method=method, body=b"{}"))
        assert third.answer()[0] == 503
        for peer in slow:
            peer.send(b"}")
            assert peer.answer()[0] in (200, 204)
        third.send(asking(path, method=method, body=b"{}"))
        assert third.answer()[0] in (200, 204)


def test_an_upgrade_counts_until_it_is_granted_and_no_longer(
    start: Start, stage: Stage, path: str
) -> None:
    granted = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        assert granted.wait(20)
        peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        peer.ended()

    stage.on(path, part)
    gateway = start(stage.url, REQUESTS)
    port = gateway.ports["http"]
    with ExitStack() as stack:
        waiting = [stack.enter_context(connect_from("127.0.0.7", port)) for _ in range(2)]
        for peer in waiting:
            peer.send(asking(path, b"Connection: Upgrade", b"Upgrade: websocket"))
        eventually(lambda: len(stage.of(path)) == 2)
        third = stack.enter_context(connect_from("127.0.0.7", port))
        third.send(asking("/y"))
        assert third.answer()[0] == 503
        granted.set()
        assert all(peer.read_head().startswith(b"HTTP/1.1 101 ") for peer in waiting)
        assert all(works(third) for _ in range(3))


def test_a_device_that_gives_up_waiting_leaves_no_place_taken(
    start: Start, stage: Stage, path: str
) -> None:
    stage.answer(path, telling(b"taken"))
    gateway = start(stage.url, REQUESTS, {"Limits": {"Connect": "20s"}})
    port = gateway.ports["http"]
    with ExitStack() as stack:
        slow = [stack.enter_context(connect_from("127.0.0.7", port)) for _ in range(2)]
        for peer in slow:
            peer.send(asking(path, b"Content-Length: 2", method=b"PUT") + b"a")
        eventually(lambda: len(stage.of(path)) == 2)
        for _ in range(5):
            with connect_from("127.0.0.7", port) as gone:
                gone.send(asking("/gone"))
        for peer in slow:
            peer.send(b"b")
            assert peer.answer()[2] == b"taken"
        assert all(works(peer) for peer in slow)


def test_probes_and_metrics_are_answered_when_devices_have_every_place(
    start: Start, stage: Stage, path: str
) -> None:
    release = threading.Event()
    waiting_part(stage, path, release)
    gateway = start(stage.url, {"Limits": {"Connections": 3}}, METRICS)
    with ExitStack() as stack:
        busy = [stack.enter_context(connect(gateway.ports["http"])) for _ in range(3)]
        for peer in busy:
            peer.send(asking(path))
        eventually(lambda: len(stage.of(path)) == 3)
        for target, status in (("/api/internal/v1/gateway/alive", 204), ("/metrics", 200)):
            with connect(gateway.ports["metrics"]) as probe:
                probe.send(asking(target))
                assert probe.answer()[0] == status
        release.set()
        assert [peer.answer()[2] for peer in busy] == [b"worked"] * 3


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::1", "127.0.0.1", False),
    ],
)
def test_an_ipv6_network_counts_as_one(one: str, other: str, same: bool) -> None:
    assert (origin_of(one) == origin_of(other)) is same
