"""Malformed and ambiguous requests: refused, nothing of them reaches the upstream.

Each case is what goes over the wire. A second, sound request is hidden behind most of them: whoever
reads the message differently than the gateway would see it.
"""

import json

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.messages import asking, chunked
from tests.support.served import Dial
from tests.support.stage import Stage

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: gateway\r\n\r\n"
G = b"GET / HTTP/1.1\r\nHost: gateway\r\n"
P = b"POST / HTTP/1.1\r\nHost: gateway\r\n"

AMBIGUOUS_LENGTHS = {
    "length and chunked": P + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": P + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": P + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\n",
    "two equal lengths": P + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a list of lengths": P + b"Content-Length: 0, 0\r\n\r\n",
    "a negative length": P + b"Content-Length: -1\r\n\r\n",
    "a signed length": P + b"Content-Length: +5\r\n\r\nhello",
    "a hexadecimal length": P + b"Content-Length: 0x5\r\n\r\nhello",
    "a length with a blank inside": P + b"Content-Length: 1 0\r\n\r\n",
    "an empty length": P + b"Content-Length: \r\n\r\n",
    "a length with digits of another script": P + "Content-Length: ٣\r\n\r\nabc".encode(),
    "a length with an underscore": P + b"Content-Length: 1_0\r\n\r\n",
    "an enormous length": P + b"Content-Length: 9223372036854775808\r\n\r\n",
    "an absurd length": P + b"Content-Length: 99999999999999999999999999\r\n\r\n",
    "xchunked": P + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked twice": P + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two fields": P
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "gzip, chunked": P + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked, gzip": P + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "identity": P + b"Transfer-Encoding: identity\r\n\r\n",
    "chunked with a parameter": P + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "chunked in quotes": P + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "an empty coding": P + b"Transfer-Encoding: \r\n\r\n",
    "chunked behind a vertical tab": P + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a blank before the colon": P + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a blank before the field": P + b" Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a tab before the colon": P + b"Content-Length\t: 5\r\n\r\nhello",
}

MALFORMED = {
    "bare LF after the request line": b"GET / HTTP/1.1\nHost: gateway\r\n\r\n",
    "bare LF after a field": b"GET / HTTP/1.1\r\nHost: gateway\nX: y\r\n\r\n",
    "bare LF only": b"GET / HTTP/1.1\nHost: gateway\n\n",
    "bare LF at the end": b"GET / HTTP/1.1\r\nHost: gateway\r\n\n",
    "bare CR in a value": G + b"X: a\rb\r\n\r\n",
    "bare CR as a line end": G + b"X: a\rTransfer-Encoding: chunked\r\n\r\n",
    "CR CR LF": G + b"X: a\r\r\n\r\n",
    "folding": G + b"X: a\r\n b\r\n\r\n",
    "folding with a tab": G + b"X: a\r\n\tb\r\n\r\n",
    "folding in the first field": b"GET / HTTP/1.1\r\n Host: gateway\r\n\r\n",
    "NUL in a value": G + b"X: a\0b\r\n\r\n",
    "NUL in a name": G + b"X\0: a\r\n\r\n",
    "a control byte in a name": G + b"X\x01: a\r\n\r\n",
    "an empty name": G + b": a\r\n\r\n",
    "no colon": G + b"X\r\n\r\n",
    "a blank in a name": G + b"X Y: a\r\n\r\n",
    "a high byte in a name": G + b"X\xff: a\r\n\r\n",
    "no Host in 1.1": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": G + b"Host: gateway\r\n\r\n",
    "two different Hosts": G + b"host: other\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: gateway\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: gateway\r\n\r\n",
    "HTTP/1.10": b"GET / HTTP/1.10\r\nHost: gateway\r\n\r\n",
    "HTTP/01.1": b"GET / HTTP/01.1\r\nHost: gateway\r\n\r\n",
    "http/1.1": b"GET / http/1.1\r\nHost: gateway\r\n\r\n",
    "ICAP": b"GET / ICAP/1.0\r\nHost: gateway\r\n\r\n",
    "RTSP": b"DESCRIBE / RTSP/1.0\r\nHost: gateway\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two blanks before the target": b"GET  / HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "two blanks after the target": b"GET /  HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "a blank in the target": b"GET /a b HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "a tab instead of a blank": b"GET\t/ HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "a blank before the method": b" GET / HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "a blank after the version": b"GET / HTTP/1.1 \r\nHost: gateway\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "an unknown method": b"FETCH / HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "a response": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a TLS hello on the plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
    "noise": bytes(range(128, 256)) * 4,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "two empty lines first": b"\r\n\r\n" + G + b"\r\n",
}

TARGETS = {
    "absolute form": b"GET http://gateway/ HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "absolute form, other host": b"GET http://other/x HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "authority form": b"CONNECT gateway:443 HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "asterisk form": b"OPTIONS * HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "no slash": b"GET api/devices HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "query only": b"GET ?a=b HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "fragment in the query": b"GET /a?b#c HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "high bytes": b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "high bytes in the query": b"GET /a?b=\xff HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "a control byte": b"GET /a\x01 HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "DEL": b"GET /a\x7f HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "NUL": b"GET /a\x00 HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "CONNECT with a path": b"CONNECT /x HTTP/1.1\r\nHost: gateway\r\n\r\n",
}

CASES = [
    pytest.param(message, id=name)
    for cases in (AMBIGUOUS_LENGTHS, MALFORMED, TARGETS)
    for name, message in cases.items()
]


@pytest.mark.parametrize("message", CASES)
def test_what_can_be_read_in_two_ways_is_refused_and_the_connection_ended(
    stage: Stage, dial: Dial, message: bytes
) -> None:
    before = len(stage.received)
    peer = dial()
    peer.send(message + HIDDEN)
    status, head, body = peer.answer()
    assert status in (400, 405)
    assert set(json.loads(body)) == {"error", "request_id"}
    assert b"\r\nContent-Type: application/json" in head
    if status == 400:
        assert b"\r\nConnection: close\r\n" in head
        assert peer.read_to_end() == (b"", True)
    peer.close()
    sound = dial()
    sound.send(asking("/sound"))
    assert sound.answer()[2] == b"ok"
    paths = [request.start for request in stage.received[before:]]
    assert paths == [b"GET /sound HTTP/1.1"] or (
        status == 405 and paths[0] == b"GET /hidden HTTP/1.1"
    )


@pytest.mark.parametrize("message", CASES)
def test_it_is_refused_too_when_it_comes_byte_by_byte(
    stage: Stage, dial: Dial, message: bytes
) -> None:
    before = len(stage.received)
    peer = dial()
    try:
        for byte in message[:400]:
            peer.send(bytes([byte]))
        peer.send(message[400:] + HIDDEN)
    except OSError:
        pass
    assert peer.answer()[0] in (400, 405)
    assert all(b"GET / " not in request.start for request in stage.received[before:])


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length:5",
        b"Content-Length: \t5 \t",
        b"content-length: 5",
        b"CONTENT-LENGTH: 0000000005",
        b"X-Last: y\r\nContent-Length: 5",
    ],
)
def test_what_is_merely_unusual_passes_in_a_sound_form(
    stage: Stage, dial: Dial, path: str, fields: bytes
) -> None:
    peer = dial()
    peer.send(asking(path, fields, method=b"POST") + b"hello" + asking("/after"))
    assert peer.answer()[2] == b"ok"
    assert peer.answer()[2] == b"ok"
    request = stage.one(path)
    assert request.values(b"Content-Length") == [b"5"]
    assert request.body == b"hello"


def test_one_empty_line_before_a_request_is_ignored(stage: Stage, dial: Dial, path: str) -> None:
    """RFC 9112 2.2: old clients end a POST with one that does not belong to it."""
    peer = dial()
    peer.send(b"\r\n" + asking(path, method=b"POST", body=b"hello") + b"\r\n" + asking("/after"))
    assert peer.answer()[2] == b"ok"
    assert peer.answer()[2] == b"ok"


@pytest.mark.parametrize("coding", [b"Chunked", b"CHUNKED", b" chunked ", b"\tchunked"], ids=repr)
def test_the_coding_is_compared_without_case_and_blanks(
    stage: Stage, dial: Dial, path: str, coding: bytes
) -> None:
    peer = dial()
    head = asking(path, b"Transfer-Encoding:" + coding, method=b"POST")
    peer.send(head + chunked(b"hello", 2) + asking("/after"))
    assert peer.answer()[2] == b"ok"
    assert peer.answer()[2] == b"ok"
    assert stage.one(path).body == b"hello"


@pytest.mark.parametrize(
    "filling",
    [
        pytest.param(lambda size: G + b"X: " + b"x" * size, id="one field"),
        pytest.param(lambda size: G + b"X: y\r\n" * (size // 6), id="many fields"),
        pytest.param(lambda size: b"GET /" + b"x" * size, id="target"),
        pytest.param(lambda size: b"A" * size, id="method"),
    ],
)
def test_a_head_of_more_than_64_kib_is_answered_with_431_or_400(
    stage: Stage, dial: Dial, gateway: GatewayProcess, filling: object
) -> None:
    assert callable(filling)
    before = len(stage.received)
    memory = gateway.resident()
    for size in (65 * 1024, 10_000_000):
        peer = dial()
        message = filling(size)
        try:
            peer.send(message)
        except OSError:
            pass  # the gateway does not take all of it
        try:
            data, _ = peer.read_to_end()
        except OSError:
            data = b""
        if data or size < 100_000:
            assert data.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")), data[:100]
            assert b'"request_id"' in data
    assert len(stage.received) == before
    assert gateway.resident() - memory < 16 * 1024 * 1024


def test_a_head_just_below_the_bound_passes(stage: Stage, dial: Dial, path: str) -> None:
    empty = asking(path, b"X: ")
    peer = dial()
    peer.send(asking(path, b"X: " + b"x" * (64 * 1024 - len(empty))))
    assert peer.answer()[2] == b"ok"
    assert len(stage.one(path).values(b"X")[0]) == 64 * 1024 - len(empty)
    peer.send(asking(path, b"X: " + b"x" * (64 * 1024 - len(empty) + 1)))
    assert peer.answer()[0] == 431


@pytest.mark.parametrize("closing", [b"Connection: close", b"Connection: x, CLOSE , y"])
def test_data_after_a_closing_request_is_ignored(
    stage: Stage, dial: Dial, path: str, closing: bytes
) -> None:
    late = asking("/hidden-behind-close")
    for rest in (late, late * 1000, bytes(100_000)):
        peer = dial()
        peer.send(asking(path, closing) + rest)
        data, clean = peer.read_to_end()
        assert data.startswith(b"HTTP/1.1 200 OK\r\n")
        assert data.endswith(b"ok")
        assert data.count(b"HTTP/1.1") == 1
        assert clean, "the answer could have been lost"
    assert stage.of("/hidden-behind-close") == []


def test_many_pipelined_requests_are_answered_in_order(stage: Stage, dial: Dial, path: str) -> None:
    for number in range(200):
        body = b"answer %d" % number
        stage.answer(
            f"{path}/{number}", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
    messages = []
    for number in range(200):
        target = f"{path}/{number}"
        if number % 3 == 0:
            messages.append(asking(target))
        elif number % 3 == 1:
            messages.append(asking(target, method=b"POST", body=b"x" * number))
        else:
            head = asking(target, b"Transfer-Encoding: chunked", method=b"PUT")
            messages.append(head + chunked(b"y" * number, 7))
    peer = dial()
    peer.send(b"".join(messages))
    for number in range(200):
        assert peer.answer()[2] == b"answer %d" % number
    for number in range(200):
        assert len(stage.one(f"{path}/{number}").body) == (number if number % 3 else 0)
