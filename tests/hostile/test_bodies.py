"""Chunked bodies that are none, from devices and from upstreams."""

import pytest

from tests.support.messages import asking
from tests.support.scripted import Peer
from tests.support.served import Dial
from tests.support.stage import Leave, Received, Stage

BAD_CHUNKS = {
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "a letter": b"g\r\n",
    "a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "an underscore": b"1_0\r\n",
    "a blank before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "a blank after the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "too many digits": b"0" * 17 + b"\r\n\r\n",
    "an overflowing size": b"fffffffffffffffff\r\n",
    "bare LF after the size": b"5\nhello\r\n0\r\n\r\n",
    "bare CR after the size": b"5\rhello\r\n0\r\n\r\n",
    "bare LF after the data": b"5\r\nhello\n0\r\n\r\n",
    "no CRLF after the data": b"5\r\nhello0\r\n\r\n",
    "more data than the size": b"5\r\nhello, world\r\n0\r\n\r\n",
    "bare LF in the extension": b"5;a=\nb\r\nhello\r\n0\r\n\r\n",
    "bare CR in the extension": b"5;a=\rb\r\nhello\r\n0\r\n\r\n",
    "NUL in the extension": b"5;\0\r\nhello\r\n0\r\n\r\n",
    "an endless extension": b"5;" + b"a" * 5000 + b"\r\nhello\r\n0\r\n\r\n",
    "bare LF at the end": b"0\r\n\n",
    "bare LF in a trailer": b"0\r\nX: y\n\r\n",
    "endless trailers": b"0\r\n" + b"X: y\r\n" * 5000,
    "one endless trailer": b"0\r\nX: " + b"y" * 5000,
}


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
def test_a_device_that_sends_no_sound_chunks_is_refused(
    stage: Stage, dial: Dial, path: str, body: bytes
) -> None:
    """Whatever went upstream before the fault never becomes a whole request there."""
    whole = []

    def part(peer: Peer, request: Received) -> None:
        data, clean = peer.read_to_end()
        whole.append(clean or b"0\r\n\r\n" in data)
        raise Leave

    stage.on(path, part)
    peer = dial()
    head = asking(path, b"Transfer-Encoding: chunked", method=b"POST")
    peer.send(head + body + asking("/hidden-behind-chunks"))
    status, head, answer = peer.answer()
    assert status == 400
    assert b"malformed request body" in answer
    assert b"\r\nConnection: close\r\n" in head
    assert peer.read_to_end() == (b"", True)
    assert stage.of("/hidden-behind-chunks") == []
    assert True not in whole


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
def test_an_upstream_that_sends_no_sound_chunks_aborts_the_answer(
    stage: Stage, dial: Dial, path: str, body: bytes
) -> None:
    def part(peer: Peer, request: Received) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n" + body)
        peer.read_to_end()
        raise Leave

    stage.on(path, part)
    peer = dial()
    peer.send(asking(path, b"Connection: close"))
    data, clean = peer.read_to_end()
    if clean:  # nothing was out yet
        assert data.startswith(b"HTTP/1.1 502 ")
        assert b'"error":"upstream answer broke off: ' in data
    else:
        assert b"0\r\n\r\n" not in data


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhello\r\n0\r\n\r\n",
        b"005\r\nhello\r\n000\r\n\r\n",
        b"5;a\r\nhello\r\n0;b\r\n\r\n",
        b"5 ;a=b\r\nhello\r\n0\r\n\r\n",
        b'5;a="b c";d\r\nhello\r\n0\r\nX: y\r\nZ: \xff\r\n\r\n',
        b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
)
def test_what_is_merely_unusual_in_chunks_passes(
    stage: Stage, dial: Dial, path: str, body: bytes
) -> None:
    peer = dial()
    head = asking(path, b"Transfer-Encoding: chunked", method=b"POST")
    peer.send(head + body + asking("/after"))
    assert peer.answer()[2] == b"ok"
    assert peer.answer()[2] == b"ok"
    assert stage.one(path).body == b"hello"
