"""The gateway's own endpoints and errors."""

import json
import re
import socket
import threading
import time
import uuid

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.messages import asking, telling
from tests.support.scripted import Peer, connect, scripted_server
from tests.support.served import METRICS, Dial, Start
from tests.support.stage import Leave, Received, Stage, eventually

ALIVE = "/api/internal/v1/gateway/alive"
HEALTH = "/api/internal/v1/gateway/health"


def get(gateway: GatewayProcess, target: str, listener: str = "http") -> tuple[int, bytes, bytes]:
    with connect(gateway.ports[listener]) as peer:
        peer.send(asking(target))
        return peer.answer()


@pytest.mark.parametrize("listener", ["http", "https", "metrics"])
@pytest.mark.parametrize("target", [ALIVE, HEALTH, ALIVE + "?x=y"])
def test_alive_and_health_are_204_on_every_listener(
    stage: Stage, dial: Dial, listener: str, target: str
) -> None:
    peer = dial(listener)
    for method in (b"GET", b"HEAD", b"GET"):
        peer.send(asking(target, method=method))
        assert peer.read_head() == b"HTTP/1.1 204 No Content\r\n\r\n"
        assert peer.buffer == b""
    assert stage.of(ALIVE) == stage.of(HEALTH) == []


@pytest.mark.parametrize("listener", ["http", "metrics"])
@pytest.mark.parametrize("target", [ALIVE, HEALTH])
def test_other_methods_are_405(dial: Dial, listener: str, target: str) -> None:
    for method in (b"POST", b"DELETE", b"OPTIONS"):
        peer = dial(listener)
        peer.send(asking(target, method=method))
        assert peer.answer()[0] == 405


def test_without_an_upstream_the_gateway_is_alive_and_not_healthy(start: Start) -> None:
    gateway = start(f"http://127.0.0.1:{unused_port()}", METRICS)
    for listener in ("http", "metrics"):
        assert get(gateway, ALIVE, listener)[0] == 204
        status, head, body = get(gateway, HEALTH, listener)
        assert status == 503
        assert b"\r\nContent-Type: application/json" in head
        assert "upstream" in json.loads(body)["reason"]


def test_health_asks_the_upstream_at_most_every_five_seconds(start: Start) -> None:
    asked = []

    def script(peer: Peer) -> None:
        while head := peer.read_head():
            asked.append(head)
            peer.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    with scripted_server(script) as upstream:
        gateway = start(upstream.url)
        for _ in range(20):
            assert get(gateway, HEALTH)[0] == 204, "any answer says that the upstream is there"
        assert len(asked) == 1
    assert not any(b"Authorization" in head for head in asked)


def test_a_hanging_upstream_makes_the_health_check_fail_in_time(start: Start, stage: Stage) -> None:
    def part(peer: Peer, request: Received) -> None:
        peer.read_to_end()
        raise Leave

    stage.on("/", part)
    gateway = start(stage.url)
    began = time.monotonic()
    assert get(gateway, HEALTH)[0] == 503
    assert time.monotonic() - began < 8


def test_errors_have_the_shape_of_the_mender_services(start: Start, stage: Stage) -> None:
    down = start(f"http://127.0.0.1:{unused_port()}")
    unresolved = start("http://no-such-host.invalid:8080")
    seen = set()
    for gateway, target, expected in (
        (down, "/api/devices/v1/x", 502),
        (unresolved, "/api/devices/v1/x", 502),
        (down, "/api/internal/x", 404),
        (down, "/a#b", 400),
        (down, "/artifacts/nothing", 502),
    ):
        status, head, body = get(gateway, target)
        assert status == expected, target
        assert b"\r\nContent-Type: application/json; charset=utf-8\r\n" in head
        assert b"\r\nDate: " in head
        document = json.loads(body)
        assert list(document) == ["error", "request_id"]
        assert document["error"]
        assert uuid.UUID(document["request_id"]).version == 4
        assert f"X-Men-Requestid: {document['request_id']}".encode() in head
        assert f"request_id={document['request_id']}" in eventually_logged(
            gateway, document["request_id"]
        )
        seen.add(document["request_id"])
    assert len(seen) == 5


def eventually_logged(gateway: GatewayProcess, text: str) -> str:
    gateway.wait_for_log(re.escape(text))
    return gateway.log


def test_after_an_error_upstream_the_devices_connection_lives_on(start: Start) -> None:
    port = unused_port()
    gateway = start(f"http://127.0.0.1:{port}")
    with connect(gateway.ports["http"]) as peer:
        for _ in range(3):
            peer.send(asking("/x", method=b"POST", body=b"some body"))
            assert peer.answer()[0] == 502
        with socket.create_server(("127.0.0.1", port)) as revived:
            answering = threading.Thread(target=answer_one, args=(revived,))
            answering.start()
            peer.send(asking("/x"))
            assert peer.answer()[2] == b"back"
            answering.join(20)


def answer_one(listener: socket.socket) -> None:
    sock, _ = listener.accept()
    with Peer(sock) as peer:
        peer.read_head()
        peer.send(telling(b"back"))


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port: int = unused.getsockname()[1]
    return port


def test_the_request_id_of_the_upstream_is_the_one_in_the_log(
    stage: Stage, dial: Dial, gateway: GatewayProcess, path: str
) -> None:
    stage.answer(path, telling(b"ok", b"X-MEN-RequestID: 8f0c1d2e-upstream"))
    peer = dial()
    peer.send(asking(path))
    peer.answer()
    found = gateway.wait_for_log(rf"msg=request method=GET path={path} .*\n")
    assert "request_id=8f0c1d2e-upstream" in found[0]


def figures(gateway: GatewayProcess) -> dict[str, float]:
    status, head, body = get(gateway, "/metrics", "metrics")
    assert status == 200
    assert b"\r\nContent-Type: text/plain; version=0.0.4" in head
    lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_requests_and_bytes_are_counted_by_method_code_and_route(
    start: Start, stage: Stage, path: str
) -> None:
    stage.answer(path, telling(b"x" * 1000, status=b"404 Not Found"))
    stage.answer("/api/devices/v1/inventory/device/attributes", telling(b"y" * 10))
    gateway = start(stage.url, METRICS)
    with connect(gateway.ports["http"]) as peer:
        for number in range(3):
            peer.send(asking(f"{path}?secret={number}"))
            peer.answer()
        peer.send(asking("/api/devices/v1/inventory/device/attributes", method=b"PUT", body=b"[]"))
        peer.answer()
    name = "mender_gateway_http_requests_total"
    size = "mender_gateway_http_response_bytes_total"
    other = '{code="404",method="GET",route="other"}'
    inventory = '{code="200",method="PUT",route="inventory"}'

    def labelled(name: str, labels: str, values: dict[str, float]) -> float:
        """Whatever the order of the labels."""
        wanted = sorted(labels.strip("{}").split(","))
        return next(
            value
            for key, value in values.items()
            if key.startswith(name + "{") and sorted(key[len(name) + 1 : -1].split(",")) == wanted
        )

    values = figures(gateway)
    assert labelled(name, other, values) == 3
    assert labelled(size, other, values) == 3000
    assert labelled(name, inventory, values) == 1
    assert labelled(size, inventory, values) == 10
    assert values["process_start_time_seconds"] == pytest.approx(time.time(), abs=120)
    assert values["process_resident_memory_bytes"] > 1_000_000


def test_labels_are_bounded_whatever_is_asked(start: Start, stage: Stage) -> None:
    gateway = start(stage.url, METRICS)
    with connect(gateway.ports["http"]) as peer:
        for number in range(300):
            peer.send(asking(f"/api/devices/v1/{number}/x?token={number}"))
            peer.answer()
    for number in range(60):
        with connect(gateway.ports["http"]) as peer:
            peer.send(b"M%dX /%d HTTP/1.1\r\nHost: a\r\n\r\n" % (number, number))
            assert peer.answer()[0] == 400
    keys = [key for key in figures(gateway) if key.startswith("mender_gateway_http_requests_total")]
    assert len(keys) < 8, keys
    assert not any("token" in key or "/" in key for key in keys)


@pytest.mark.parametrize("target", ["/", "/x", "/metrics/", "/api/devices/v1/x", ALIVE + "/x"])
def test_the_metrics_listener_has_nothing_else_and_forwards_nothing(
    stage: Stage, dial: Dial, target: str
) -> None:
    before = len(stage.received)
    peer = dial("metrics")
    peer.send(asking(target))
    assert peer.answer()[0] == 404
    assert len(stage.received) == before


@pytest.mark.parametrize("listener", ["http", "https"])
def test_devices_do_not_see_the_metrics(stage: Stage, dial: Dial, listener: str) -> None:
    peer = dial(listener)
    peer.send(asking("/metrics"))
    assert peer.answer()[2] == b"ok"  # forwarded as any other path


def test_aborted_answers_and_broken_connections_do_not_unbalance_the_figures(
    start: Start, stage: Stage, path: str
) -> None:
    stage.answer(path, telling(bytes(30_000_000)))
    gateway = start(stage.url, METRICS)
    for _ in range(5):
        with connect(gateway.ports["http"], receive_buffer=16384) as peer:
            peer.send(asking(path))
            peer.read_exactly(10_000)
            peer.reset()
    eventually(lambda: figures(gateway).get("mender_gateway_aborted_answers_total") == 5)
    before = figures(gateway)["process_open_fds"]
    eventually(lambda: figures(gateway)["process_open_fds"] <= before)
