"""Connections to the upstream: kept and used again, let go in time, never poisoned."""

import threading
from concurrent.futures import ThreadPoolExecutor

from tests.support.gateway import GatewayProcess
from tests.support.messages import asking, telling
from tests.support.scripted import Peer, connect
from tests.support.served import METRICS, Start
from tests.support.stage import Leave, Received, Stage, eventually


def ask(gateway: GatewayProcess, path: str, method: bytes = b"GET") -> tuple[int, bytes, bytes]:
    """One request on a device connection of its own."""
    with connect(gateway.ports["http"]) as peer:
        peer.send(asking(path, method=method))
        return peer.answer()


def test_one_connection_serves_many_devices_in_turn(start: Start, stage: Stage, path: str) -> None:
    gateway = start(stage.url)
    for _ in range(20):
        assert ask(gateway, path, b"POST")[2] == b"ok"
    assert len({request.connection for request in stage.of(path)}) == 1


def test_requests_at_the_same_time_have_a_connection_each(
    start: Start, stage: Stage, path: str
) -> None:
    together = threading.Barrier(5, timeout=20)

    def part(peer: Peer, request: Received) -> None:
        together.wait()
        peer.send(telling(b"ok"))

    stage.on(path, part)
    gateway = start(stage.url)
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: ask(gateway, path), range(5)))
    assert [body for _, _, body in answers] == [b"ok"] * 5
    assert len({request.connection for request in stage.of(path)}) == 5


def test_an_idle_connection_is_let_go_in_time(start: Start, stage: Stage, path: str) -> None:
    gone = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        peer.send(telling(b"ok"))
        if peer.ended():
            gone.set()
        raise Leave

    stage.on(path, part)
    gateway = start(stage.url, {"Limits": {"UpstreamIdle": "1s"}})
    assert ask(gateway, path)[2] == b"ok"
    assert gone.wait(10)
    assert ask(gateway, path + "/next", b"POST")[2] == b"ok"


def test_nothing_is_pooled_when_the_idle_time_is_zero(
    start: Start, stage: Stage, path: str
) -> None:
    gateway = start(stage.url, {"Limits": {"UpstreamIdle": "0s"}})
    for _ in range(3):
        assert ask(gateway, path, b"POST")[2] == b"ok"
        before = stage.of(path)[-1].connection
    assert len({request.connection for request in stage.of(path)}) == 3, before


def test_the_end_of_an_idle_connection_is_noticed_before_use(
    start: Start, stage: Stage, path: str
) -> None:
    """POST may not be repeated: had it gone out on the ended connection, it would be lost."""
    ended = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        peer.send(telling(b"ok"))
        peer.close()
        ended.set()
        raise Leave

    stage.on(path, part)
    gateway = start(stage.url)
    for number in range(10):
        ended.clear()
        assert ask(gateway, path, b"POST")[0] == 200, number
        assert ended.wait(10)


def test_the_end_is_noticed_too_after_an_answer_that_came_while_the_device_was_slow(
    start: Start, stage: Stage, path: str
) -> None:
    """The last bytes of the answer and the end arrive while nobody waits for the upstream."""
    body = bytes(3_000_000)
    sent = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        peer.send(telling(body))
        peer.close()
        sent.set()
        raise Leave

    stage.on(path, part)
    gateway = start(stage.url)
    with connect(gateway.ports["http"], receive_buffer=65536) as peer:
        for _ in range(3):
            sent.clear()
            peer.send(asking(path, method=b"POST"))
            assert peer.read_until(b"\r\n\r\n")
            peer.read_exactly(len(body))
            assert sent.wait(10)
            peer.send(asking(path + "/after", method=b"POST"))
            assert peer.answer()[0] == 200


def test_what_an_upstream_sends_beyond_an_answer_poisons_no_other_request(
    start: Start, stage: Stage, path: str
) -> None:
    """In one segment with the answer, and some time after it."""
    late = threading.Event()

    def at_once(peer: Peer, request: Received) -> None:
        peer.send(telling(b"right") + telling(b"WRONG") * 3)

    def afterwards(peer: Peer, request: Received) -> None:
        peer.send(telling(b"right"))
        assert late.wait(20)
        peer.send(telling(b"WRONG"))
        late.clear()

    stage.on(path, at_once)
    stage.on(path + "/late", afterwards)
    gateway = start(stage.url)
    for _ in range(5):
        assert ask(gateway, path)[2] == b"right"
    for _ in range(5):
        assert ask(gateway, path + "/late")[2] == b"right"
        late.set()
        eventually(lambda: not late.is_set())
        assert ask(gateway, "/other")[2] == b"ok"


def test_a_body_that_a_head_request_gets_poisons_no_other_request(
    start: Start, stage: Stage, path: str
) -> None:
    stage.answer(path, telling(b"body"))
    gateway = start(stage.url)
    with connect(gateway.ports["http"]) as peer:
        for _ in range(3):
            peer.send(asking(path, method=b"HEAD"))
            assert peer.read_head().endswith(b"Content-Length: 4\r\n\r\n")
            peer.send(asking("/other", method=b"POST"))
            assert peer.answer()[2] == b"ok"


def test_an_upstream_that_wants_to_close_is_not_asked_again(
    start: Start, stage: Stage, path: str
) -> None:
    stage.answer(path, telling(b"ok", b"Connection: close"))
    gateway = start(stage.url)
    for _ in range(3):
        assert ask(gateway, path, b"POST")[2] == b"ok"
    assert len({request.connection for request in stage.of(path)}) == 3


def test_connections_to_one_upstream_are_bounded_and_who_waits_too_long_is_told(
    start: Start, stage: Stage, path: str
) -> None:
    release = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        assert release.wait(20)
        peer.send(telling(b"slow"))

    stage.on(path, part)
    limits = {"UpstreamConnections": 2, "Connect": "1s"}
    gateway = start(stage.url, {"Limits": limits}, METRICS)
    with ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(ask, gateway, path) for _ in range(2)]
        eventually(lambda: len(stage.of(path)) == 2)
        status, head, body = ask(gateway, "/other")
        assert status == 503
        assert b"\r\nRetry-After: " in head
        assert b'"error":"all upstream connections are in use"' in body
        waiting = pool.submit(ask, gateway, "/waiting")
        release.set()
        assert waiting.result(20)[2] == b"ok"
        assert [future.result(20)[2] for future in slow] == [b"slow"] * 2


def test_who_gave_up_waiting_for_a_connection_takes_no_place(
    start: Start, stage: Stage, path: str
) -> None:
    """Otherwise the bound on waiting requests would fill up while the upstream hangs."""
    release = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        assert release.wait(20)
        peer.send(telling(b"slow"))

    stage.on(path, part)
    limits = {"UpstreamConnections": 1, "Connect": "300ms", "Connections": 3}
    gateway = start(stage.url, {"Limits": limits})
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, gateway, path)
        eventually(lambda: len(stage.of(path)) == 1)
        for _ in range(4):
            assert b"all upstream connections are in use" in ask(gateway, "/other")[2]
        release.set()
        assert slow.result(20)[2] == b"slow"
    assert ask(gateway, "/other")[2] == b"ok"
