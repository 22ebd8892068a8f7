"""Heads as values: what they say of framing, persistence and upgrades, and what is refused."""

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.errors import BadGateway, BadRequest, HeadTooLarge
from mender_gateway.http.message import CHUNKED, UNTIL_CLOSE, Answer, Request
from mender_gateway.http.parser import HeadChecker, parse_answer, parse_request

TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", min_size=1)
VALUE = st.binary(max_size=40).map(
    lambda data: bytes(byte for byte in data if byte >= 32 and byte != 127).strip()
)


def request(*lines: bytes, start: bytes = b"GET / HTTP/1.1", host: bool = True) -> Request:
    head = b"\r\n".join((start, *([b"Host: h"] if host else []), *lines)) + b"\r\n\r\n"
    return parse_request(head, HeadChecker(httptools.HttpRequestParser))


def answer(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK", method: bytes = b"GET") -> Answer:
    head = b"\r\n".join((start, *lines)) + b"\r\n\r\n"
    return parse_answer(head, HeadChecker(httptools.HttpResponseParser), method)


@pytest.mark.parametrize(
    ("lines", "framing"),
    [
        ([], 0),
        ([b"Content-Length: 0"], 0),
        ([b"Content-Length: 17"], 17),
        ([b"CONTENT-LENGTH:\t0017 "], 17),
        ([b"Content-Length: 9223372036854775807"], 2**63 - 1),
        ([b"Transfer-Encoding: chunked"], CHUNKED),
        ([b"transfer-encoding:CHUNKED"], CHUNKED),
    ],
)
def test_the_framing_of_a_request(lines: list[bytes], framing: int) -> None:
    assert request(*lines, start=b"POST / HTTP/1.1").framing == framing


@pytest.mark.parametrize(
    ("start", "method", "lines", "framing"),
    [
        (b"HTTP/1.1 200 OK", b"GET", [], UNTIL_CLOSE),
        (b"HTTP/1.1 200 OK", b"GET", [b"Content-Length: 5"], 5),
        (b"HTTP/1.1 200 OK", b"GET", [b"Transfer-Encoding: chunked"], CHUNKED),
        (b"HTTP/1.1 200 OK", b"HEAD", [b"Content-Length: 5"], 0),
        (b"HTTP/1.1 200 OK", b"HEAD", [b"Transfer-Encoding: chunked"], 0),
        (b"HTTP/1.1 200 OK", b"HEAD", [], 0),
        (b"HTTP/1.1 204 No Content", b"GET", [], 0),
        (b"HTTP/1.1 204 No Content", b"GET", [b"Content-Length: 5"], 0),
        (b"HTTP/1.1 304 Not Modified", b"GET", [b"Content-Length: 5"], 0),
        (b"HTTP/1.1 100 Continue", b"GET", [], 0),
        (b"HTTP/1.1 404 Not Found", b"DELETE", [b"Content-Length: 5"], 5),
        (b"HTTP/1.0 200 OK", b"GET", [b"Content-Length: 5"], 5),
        (b"HTTP/1.0 200 OK", b"GET", [], UNTIL_CLOSE),
    ],
)
def test_the_framing_of_an_answer(
    start: bytes, method: bytes, lines: list[bytes], framing: int
) -> None:
    assert answer(*lines, start=start, method=method).framing == framing


@pytest.mark.parametrize(
    ("version", "lines", "lasting"),
    [
        (b"1.1", [], True),
        (b"1.1", [b"Connection: close"], False),
        (b"1.1", [b"Connection: Keep-Alive, CLOSE"], False),
        (b"1.1", [b"Connection: x", b"Connection: close"], False),
        (b"1.1", [b"Connection: closed"], True),
        (b"1.1", [b"Connection: keep-alive"], True),
        (b"1.0", [], False),
        (b"1.0", [b"Connection: keep-alive"], True),
        (b"1.0", [b"Connection: Keep-Alive , x"], True),
        (b"1.0", [b"Connection: keep-alive, close"], False),
    ],
)
def test_whether_a_connection_lasts(version: bytes, lines: list[bytes], lasting: bool) -> None:
    assert request(*lines, start=b"GET / HTTP/" + version).keep_alive is lasting
    got = answer(b"Content-Length: 0", *lines, start=b"HTTP/" + version + b" 200 OK")
    assert got.keep_alive is lasting
    assert not answer(*lines, start=b"HTTP/" + version + b" 200 OK").keep_alive, "until close"


@pytest.mark.parametrize(
    ("lines", "upgrade"),
    [
        ([b"Connection: Upgrade", b"Upgrade: websocket"], b"websocket"),
        ([b"connection: x, UPGRADE", b"upgrade: a", b"Upgrade: b"], b"a, b"),
        ([b"Upgrade: websocket"], b""),
        ([b"Connection: Upgrade"], b""),
        ([b"Connection: upgraded", b"Upgrade: websocket"], b""),
    ],
)
def test_an_upgrade_counts_where_connection_names_it(lines: list[bytes], upgrade: bytes) -> None:
    assert request(*lines).upgrade == upgrade
    assert request(*lines, start=b"GET / HTTP/1.0").upgrade == b""


@pytest.mark.parametrize(
    ("start", "lines", "expects"),
    [
        (b"PUT / HTTP/1.1", [b"Expect: 100-continue", b"Content-Length: 1"], True),
        (b"PUT / HTTP/1.1", [b"expect: 100-Continue", b"Transfer-Encoding: chunked"], True),
        (b"PUT / HTTP/1.1", [b"Expect: 100-continue"], False),
        (b"PUT / HTTP/1.1", [b"Expect: other", b"Content-Length: 1"], False),
        (b"PUT / HTTP/1.0", [b"Expect: 100-continue", b"Content-Length: 1"], False),
    ],
)
def test_who_waits_for_100(start: bytes, lines: list[bytes], expects: bool) -> None:
    assert request(*lines, start=start).expects is expects


@given(
    names=st.lists(TOKEN.map(str.encode), max_size=8),
    values=st.lists(VALUE, min_size=8, max_size=8),
    blanks=st.lists(st.sampled_from([b"", b" ", b"\t", b" \t "]), min_size=2, max_size=2),
)
def test_fields_are_kept_in_order_with_case_and_without_surrounding_blanks(
    names: list[bytes], values: list[bytes], blanks: list[bytes]
) -> None:
    special = {b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade"}
    special |= {b"expect", b"proxy-connection", b"keep-alive"}
    fields = [
        (name, value)
        for name, value in zip(names, values, strict=False)
        if name.lower() not in special
    ]
    lines = [name + b":" + blanks[0] + value + blanks[1] for name, value in fields]
    assert request(*lines).fields == [(b"Host", b"h"), *fields]
    assert answer(*lines).fields == fields


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_and_never_a_fault(data: bytes) -> None:
    for head in (data + b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: h\r\n" + data + b"\r\n\r\n"):
        if not head.startswith(b"\r\n"):
            try:
                read = parse_request(head, HeadChecker(httptools.HttpRequestParser))
            except (BadRequest, HeadTooLarge):
                pass
            else:
                assert b"\r" not in read.target + read.method
                assert b"\n" not in b"".join(name + value for name, value in read.fields)
    head = b"HTTP/1.1 200 OK\r\n" + data + b"\r\n\r\n"
    try:
        got = parse_answer(head, HeadChecker(httptools.HttpResponseParser), b"GET")
    except BadGateway:
        pass
    else:
        both = b"".join(name + value for name, value in got.fields)
        assert not {b"\r", b"\n", b"\0"} & {bytes([byte]) for byte in both}


def test_one_checker_reads_head_after_head_whatever_bodies_lie_between() -> None:
    """The bodies never pass through it: it must not wait for one, nor take the next head for it."""
    checker = HeadChecker(httptools.HttpRequestParser)
    heads = [
        b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n",
        b"GET /3 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"PUT /4 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /5 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        b"GET /6 HTTP/1.1\r\nHost: h\r\n\r\n",
    ]
    for head in heads * 3:
        assert parse_request(head, checker).target in head
    with pytest.raises(BadRequest):
        parse_request(b"GET /7 HTTP/1.1\r\nHost : h\r\n\r\n", checker)
    assert parse_request(heads[0], checker).target == b"/1"
    answers = HeadChecker(httptools.HttpResponseParser)
    for head in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    ):
        assert parse_answer(head, answers, b"GET").status == int(head[9:12])
