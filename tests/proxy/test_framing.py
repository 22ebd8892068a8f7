"""Bodies cross whole, whatever framing each side speaks."""

import pytest

from tests.support.messages import EMPTY, asking
from tests.support.scripted import Peer
from tests.support.served import Dial
from tests.support.stage import Part, Received, Stage


@pytest.mark.parametrize("listener", ["http", "https"])
def test_a_body_in_one_byte_chunks_arrives_whole(
    stage: Stage, dial: Dial, path: str, listener: str
) -> None:
    peer = dial(listener)
    body = b'{"status":"installing"}'
    message = asking(path, b"Transfer-Encoding: chunked", method=b"PUT")
    message += b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    for byte in message:
        peer.send(bytes([byte]))
    assert peer.answer()[2] == b"ok"
    request = stage.one(path)
    assert request.body == body
    assert request.values(b"Transfer-Encoding") == [b"chunked"]
    assert request.values(b"Content-Length") == []


def test_trailers_and_chunk_extensions_are_dropped_both_ways(
    stage: Stage, dial: Dial, path: str
) -> None:
    def part(peer: Peer, request: Received) -> None:
        raw = peer.read_until(b"0\r\n\r\n")
        request.body = raw
        peer.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
            b"2;a=b\r\nhi\r\n0;last\r\nX-Sum: 1\r\nContent-Length: 7\r\n\r\n"
        )

    stage.on(path, part)
    peer = dial()
    peer.send(
        asking(path, b"Transfer-Encoding: chunked", b"Trailer: X-Sum", method=b"PUT")
        + b'5;name="v"\r\nhello\r\n0\r\nX-Sum: 5\r\nHost: evil\r\n\r\n'
    )
    head = peer.read_head()
    assert head == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert peer.read_until(b"0\r\n\r\n") == b"2\r\nhi\r\n0\r\n\r\n"
    request = stage.one(path)
    assert request.body == b"5\r\nhello\r\n0\r\n\r\n"
    peer.send(asking("/after"))
    assert peer.answer()[2] == b"ok"


UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nall\r\n6\r\n of it\r\n0\r\n\r\n"
)
COUNTED = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall of it"
OLD = b"HTTP/1.0 200 OK\r\n\r\nall of it"
OLD_COUNTED = b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nall of it"


def answer_and_leave(data: bytes) -> Part:
    def part(peer: Peer, request: Received) -> None:
        peer.send(data)
        if data in (UNTIL_CLOSE, OLD, OLD_COUNTED):
            peer.sock.close()

    return part


@pytest.mark.parametrize("answer", [UNTIL_CLOSE, CHUNKED, COUNTED, OLD, OLD_COUNTED])
@pytest.mark.parametrize("listener", ["http", "https"])
def test_every_framing_reaches_every_generation_of_devices(
    stage: Stage, dial: Dial, path: str, answer: bytes, listener: str
) -> None:
    stage.on(path, answer_and_leave(answer))
    counted = answer in (COUNTED, OLD_COUNTED)

    modern = dial(listener)
    modern.send(asking(path) + asking("/after"))
    status, head, body = modern.answer()
    assert (status, body) == (200, b"all of it")
    assert (b"Content-Length: 9\r\n" in head) == counted
    assert (b"Transfer-Encoding: chunked\r\n" in head) != counted
    assert modern.answer()[2] == b"ok"

    old = dial(listener)
    old.send(asking(path, version=b"1.0"))
    data, clean = old.read_to_end()
    head, body = data.split(b"\r\n\r\n", 1)
    assert clean
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"all of it"
    assert b"chunked" not in head
    assert (b"Content-Length: 9" in head) == counted

    lasting = dial(listener)
    lasting.send(asking(path, b"Connection: Keep-Alive", version=b"1.0"))
    head = lasting.read_head()
    if counted:
        assert b"\r\nConnection: keep-alive\r\n" in head
        assert lasting.read_exactly(9) == b"all of it"
        lasting.send(asking("/after", version=b"1.0"))
        assert lasting.answer()[2] == b"ok"
        assert lasting.read_to_end() == (b"", True)
    else:
        assert b"\r\nConnection: close\r\n" in head
        assert lasting.read_to_end() == (b"all of it", True)


def test_a_device_of_http_1_0_is_named_in_via(stage: Stage, dial: Dial, path: str) -> None:
    stage.answer(path, EMPTY)
    peer = dial()
    peer.send(b"POST %b HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc" % path.encode())
    assert peer.answer()[0] == 200
    request = stage.one(path)
    assert request.start.endswith(b" HTTP/1.1")
    assert request.values(b"Via") == [b"1.0 mender-gateway"]
    assert request.body == b"abc"


def test_an_answer_to_http_1_0_is_not_interim(stage: Stage, dial: Dial, path: str) -> None:
    """HTTP/1.0 knows neither 1xx nor Expect (RFC 9110 10.1.1)."""
    peer = dial()
    peer.send(asking(path, b"Expect: 100-continue", b"Content-Length: 3", version=b"1.0"))
    assert peer.is_silent(0.3)
    peer.send(b"abc")
    assert peer.answer()[2] == b"ok"
