"""Heads that the parser lets pass although gateway and server would not read the same in them."""

import json

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.messages import asking, telling
from tests.support.scripted import Peer, connect
from tests.support.served import Dial
from tests.support.stage import Received, Stage


@pytest.mark.parametrize("before", [b"\n", b"\r", b"\n\n", b"\n\r\n", b"\r\n\n"], ids=repr)
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT"])
def test_a_line_end_never_becomes_part_of_the_method(
    stage: Stage, gateway: GatewayProcess, dial: Dial, path: str, before: bytes, method: bytes
) -> None:
    """llhttp skips any number of them; the method would be another one here than upstream."""
    peer = dial()
    peer.send(before + asking(path, method=method))
    status, head, body = peer.answer()
    assert status == 400
    assert b"\r\nConnection: close\r\n" in head
    assert "error" in json.loads(body)
    assert stage.of(path) == []
    with connect(gateway.ports["metrics"]) as metrics:
        metrics.send(asking("/metrics"))
        assert b'method="\\n' not in metrics.answer()[2]


@pytest.mark.parametrize("field", [b"a:", b"Connection:a", b"Expect:b", b"Via:c"])
def test_a_head_of_many_tiny_fields_is_refused(
    stage: Stage, dial: Dial, path: str, field: bytes
) -> None:
    """Each field costs microseconds: 64 KiB of them would cost the others 50 milliseconds."""
    peer = dial()
    peer.send(asking(path, *[field] * 4000))
    status, head, body = peer.answer()
    assert status == 431
    assert b"\r\nConnection: close\r\n" in head
    assert "error" in json.loads(body)
    assert stage.of(path) == []


def test_as_many_fields_as_any_client_sends_pass(stage: Stage, dial: Dial, path: str) -> None:
    peer = dial()
    peer.send(asking(path, *[b"X-%d: y" % number for number in range(200)]))
    assert peer.answer()[2] == b"ok"
    assert len([name for name, _ in stage.one(path).fields if name.startswith(b"X-")]) >= 200


def test_a_path_that_is_longer_than_any_api_has_is_refused(
    stage: Stage, dial: Dial, path: str
) -> None:
    peer = dial()
    peer.send(asking("/internal" + "/a" * 30_000))
    assert peer.answer()[0] == 400
    long_query = dial()
    long_query.send(asking(f"{path}?{'a' * 30_000}"))
    assert long_query.answer()[2] == b"ok"


@pytest.mark.parametrize("reason", [b"O\x00K", b"O\x7fK", b"O\x0bK", b"\x1b[31mOK"], ids=repr)
def test_control_bytes_in_a_reason_do_not_reach_the_device(
    stage: Stage, dial: Dial, path: str, reason: bytes
) -> None:
    stage.answer(path, b"HTTP/1.1 200 " + reason + b"\r\nContent-Length: 2\r\n\r\nok")
    peer = dial()
    peer.send(asking(path))
    status, head, body = peer.answer()
    assert (status, body) == (200, b"ok")
    line = head.split(b"\r\n", 1)[0]
    assert all(32 <= byte < 127 for byte in line), line


@pytest.mark.parametrize("status", [b"000", b"001", b"099"])
def test_a_status_below_100_is_no_answer(
    stage: Stage, dial: Dial, path: str, status: bytes
) -> None:
    def part(peer: Peer, request: Received) -> None:
        request.body = peer.read_body(request.head)
        peer.send(b"HTTP/1.1 " + status + b" X\r\n\r\n" + telling(b"hidden"))

    stage.on(path, part)
    peer = dial()
    peer.send(asking(path))
    assert peer.answer()[0] == 502
