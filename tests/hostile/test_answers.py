"""Answers of an upstream that are malformed, ambiguous or too large: 502, and nothing spreads."""

import pytest

from tests.support.messages import asking, telling
from tests.support.scripted import Peer
from tests.support.served import Dial
from tests.support.stage import Leave, Received, Stage

S = b"HTTP/1.1 200 OK\r\n"
HIDDEN = telling(b"WRONG")

BAD_ANSWERS = {
    "two lengths": S + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello",
    "two equal lengths": S + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": S + b"Content-Length: 5, 5\r\n\r\nhello",
    "a negative length": S + b"Content-Length: -5\r\n\r\nhello",
    "an empty length": S + b"Content-Length: \r\n\r\nhello",
    "an absurd length": S + b"Content-Length: 99999999999999999999\r\n\r\nhello",
    "length and chunked": S + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": S + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "gzip, chunked": S + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": S + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a split value": S + b"X: a\rSet-Cookie: evil=1\r\nContent-Length: 5\r\n\r\nhello",
    "a bare LF": S + b"X: a\nSet-Cookie: evil=1\r\nContent-Length: 5\r\n\r\nhello",
    "folding": S + b"X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
    "NUL": S + b"X: a\0b\r\nContent-Length: 5\r\n\r\nhello",
    "a blank before the colon": S + b"Content-Length : 5\r\n\r\nhello",
    "no colon": S + b"X\r\nContent-Length: 5\r\n\r\nhello",
    "CR in the reason": b"HTTP/1.1 200 O\rK\r\nContent-Length: 5\r\n\r\nhello",
    "no status": b"HTTP/1.1 OK\r\nContent-Length: 5\r\n\r\nhello",
    "two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello",
    "four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status 000": b"HTTP/1.1 000 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status 099": b"HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/2": b"HTTP/2 200\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/0.9": b"<html>hello</html>\r\n\r\n",
    "a request": asking("/x"),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46",
    "an empty line first": b"\r\n\r\n" + telling(b"hello"),
    "too large a head": S + b"X: " + b"x" * 100_000 + b"\r\nContent-Length: 5\r\n\r\nhello",
    "too many interim answers": b"HTTP/1.1 102 Processing\r\n\r\n" * 1000,
    "status 101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
@pytest.mark.parametrize("ending", [False, True], ids=["stays", "ends"])
def test_an_answer_that_cannot_be_passed_on_is_a_502_and_spreads_to_no_other(
    stage: Stage, dial: Dial, path: str, answer: bytes, ending: bool
) -> None:
    def part(peer: Peer, request: Received) -> None:
        peer.send(answer + HIDDEN)
        if ending:
            raise Leave
        assert peer.read_to_end()[0] == b"", "asked again on a connection that is out of step"
        raise Leave

    stage.on(path, part)
    peer = dial()
    peer.send(asking(path, method=b"POST") + asking("/after"))
    status, head, body = peer.answer()
    assert status == 502
    assert b"evil" not in head
    assert b'"error":"' in body
    assert b'"request_id":"' in body
    assert peer.answer()[2] == b"ok"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 O\0K\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 \r\ncontent-length:5\r\n\r\nhello",
        b"HTTP/1.1 299 Odd\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Latin: \xe9\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
        b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
def test_what_is_merely_unusual_in_an_answer_passes(
    stage: Stage, dial: Dial, path: str, answer: bytes
) -> None:
    stage.answer(path, answer)
    peer = dial()
    peer.send(asking(path))
    _, head, body = peer.answer()
    assert body == b"hello"
    assert b"\0" not in head
    peer.send(asking("/after"))
    assert peer.answer()[2] == b"ok"
