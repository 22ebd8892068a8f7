"""Request bodies: answered early, announced with Expect, too slow, broken off, never read."""

import threading
import time

import pytest

from tests.support.messages import EMPTY, asking, chunked, telling
from tests.support.scripted import Peer
from tests.support.served import Dial
from tests.support.stage import Leave, Part, Received, Stage, eventually

CONFIG = {"Limits": {"BodyProgress": "1s", "WriteStall": "2s"}}
TOO_LARGE = telling(b'{"error":"too large"}', status=b"413 Request Entity Too Large")


def refusing(*, leaving: bool) -> Part:
    """Answers from the head alone; a server then reads on for a while, or hangs up at once."""

    def part(peer: Peer, request: Received) -> None:
        peer.send(TOO_LARGE)
        if leaving:
            raise Leave
        peer.read_body(request.head)

    return part


@pytest.mark.parametrize("leaving", [False, True], ids=["reads on", "hangs up"])
@pytest.mark.parametrize("framing", ["counted", "chunked"])
@pytest.mark.parametrize("listener", ["http", "https"])
@pytest.mark.parametrize("size", [10_000_000, 150_000])
def test_an_answer_before_the_end_of_an_upload_reaches_the_device(
    stage: Stage, dial: Dial, path: str, leaving: bool, framing: str, listener: str, size: int
) -> None:
    stage.on(path, refusing(leaving=leaving))
    peer = dial(listener)
    body = bytes(size)
    if framing == "counted":
        message = asking(path, method=b"POST", body=body)
    else:
        message = asking(path, b"Transfer-Encoding: chunked", method=b"POST")
        message += chunked(body, 50_000)

    def send() -> None:
        try:
            for start in range(0, len(message), 65536):
                peer.send(message[start : start + 65536])
        except OSError:
            pass  # the gateway need not take all of it

    if listener == "https":  # one thread at a time may use a TLS socket
        peer.send(message[:100_000])
        assert peer.answer()[0] == 413
        return
    sender = threading.Thread(target=send)
    sender.start()
    status, _, answer = peer.answer()
    sender.join(20)
    assert not sender.is_alive()
    assert (status, answer) == (413, b'{"error":"too large"}')


def test_after_an_early_answer_a_short_rest_of_the_body_saves_the_connection(
    stage: Stage, dial: Dial, path: str
) -> None:
    stage.on(path, refusing(leaving=False))
    peer = dial()
    peer.send(asking(path, b"Content-Length: 30000", method=b"POST"))
    assert peer.answer()[0] == 413
    peer.send(bytes(30000) + asking("/after"))
    assert peer.answer()[2] == b"ok"


def test_a_device_that_expects_100_gets_it_and_the_answer(
    stage: Stage, dial: Dial, path: str
) -> None:
    for framing, body in (
        (b"Content-Length: 4", b"body"),
        (b"Transfer-Encoding: chunked", chunked(b"body", 2)),
    ):
        peer = dial()
        peer.send(asking(path, b"Expect: 100-continue", framing, method=b"PUT"))
        assert peer.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.send(body)
        assert peer.answer() == (200, telling(b"ok").removesuffix(b"ok"), b"ok")
        peer.send(asking("/after"))
        assert peer.answer()[2] == b"ok"
    assert [request.body for request in stage.of(path)] == [b"body"] * 2
    assert all(request.values(b"Expect") == [] for request in stage.of(path))


def test_a_body_that_does_not_wait_for_100_needs_none(stage: Stage, dial: Dial, path: str) -> None:
    peer = dial()
    peer.send(asking(path, b"Expect: 100-Continue", method=b"PUT", body=b"body"))
    assert peer.answer()[2] == b"ok"


def test_expect_without_a_body_changes_nothing(stage: Stage, dial: Dial, path: str) -> None:
    peer = dial()
    peer.send(asking(path, b"Expect: 100-continue"))
    assert peer.answer()[2] == b"ok"


def test_a_refusal_of_the_gateways_own_comes_without_100_and_without_the_body(
    dial: Dial,
) -> None:
    peer = dial()
    peer.send(
        asking("/api/internal/v1/x", b"Expect: 100-continue", b"Content-Length: 9", method=b"POST")
    )
    status, head, _ = peer.answer()
    assert status == 404
    assert b"\r\nConnection: close\r\n" in head
    assert peer.read_to_end() == (b"", True)


def test_an_upstream_that_refuses_early_while_the_device_waits_for_100_is_heard(
    stage: Stage, dial: Dial, path: str
) -> None:
    stage.on(path, refusing(leaving=False))
    peer = dial()
    peer.send(asking(path, b"Expect: 100-continue", b"Content-Length: 9", method=b"POST"))
    head = peer.read_head()
    if head.startswith(b"HTTP/1.1 100 "):
        head = peer.read_head()
    assert head.startswith(b"HTTP/1.1 413 ")


def test_a_body_that_stands_still_is_answered_with_408(stage: Stage, dial: Dial, path: str) -> None:
    ends = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        assert not peer.read_to_end()[1], "the upstream takes a part for the whole"
        ends.set()
        raise Leave

    stage.on(path, part)
    for framing in (b"Content-Length: 100", b"Transfer-Encoding: chunked"):
        ends.clear()
        peer = dial()
        began = time.monotonic()
        peer.send(asking(path, framing, method=b"PUT") + b"5\r\nhello\r\n")
        status, head, body = peer.answer()
        assert status == 408
        assert 1.0 <= time.monotonic() - began < 1.9
        assert b"\r\nConnection: close\r\n" in head
        assert b'"error":"request timeout","request_id":"' in body
        assert peer.ended()
        assert ends.wait(10)


def test_a_slow_body_takes_the_time_it_needs(stage: Stage, dial: Dial, path: str) -> None:
    peer = dial()
    peer.send(asking(path, b"Content-Length: 8", method=b"PUT"))
    for byte in b"slowbody":
        assert peer.is_silent(0.4)  # eight such pauses are three times the deadline
        peer.send(bytes([byte]))
    assert peer.answer()[2] == b"ok"
    assert stage.one(path).body == b"slowbody"


def test_an_upload_is_passed_on_as_it_comes(stage: Stage, dial: Dial, path: str) -> None:
    came: list[bytes] = []

    def part(peer: Peer, request: Received) -> None:
        while len(came) < 3:
            came.append(peer.read_exactly(5))
        peer.send(EMPTY)

    stage.on(path, part)
    peer = dial()
    peer.send(asking(path, b"Content-Length: 15", method=b"POST"))
    for number in range(3):
        peer.send(b"part%d" % number)
        eventually(lambda expected=number: len(came) == expected + 1)  # type: ignore[misc]
    assert peer.answer()[0] == 200


def test_an_upstream_that_takes_nothing_is_a_504(stage: Stage, dial: Dial, path: str) -> None:
    stop = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        assert stop.wait(30)
        raise Leave

    stage.on(path, part)
    peer = dial()
    size = 100_000_000
    peer.send(asking(path, b"Content-Length: %d" % size, method=b"POST"))

    def send() -> None:
        try:
            for _ in range(size // 1_000_000):
                peer.send(bytes(1_000_000))
        except OSError:
            pass

    sender = threading.Thread(target=send)
    sender.start()
    try:
        status, _, body = peer.answer()
    finally:
        stop.set()
        sender.join(30)
    assert status == 504
    assert b'"error":"upstream takes no data"' in body


def test_many_tiny_pieces_of_a_repeatable_body_cost_little(
    stage: Stage, dial: Dial, path: str
) -> None:
    """The body is kept for a repetition: that must not look at each piece again and again."""
    target = "/api/devices/v1/inventory/device/attributes"
    body = b"x" * 20_000
    peer = dial()
    peer.send(asking(target, b"Content-Length: 20000", method=b"PUT"))
    began = time.monotonic()
    for byte in body:
        peer.send(bytes([byte]))
    assert peer.answer()[2] == b"ok"
    assert stage.one(target).body == body
    assert time.monotonic() - began < 30
