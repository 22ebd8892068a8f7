"""Misbehaviour on demand happens exactly where it was asked for."""

import http.client
import socket
import threading

import pytest

from mender_gateway.demo import faults
from mender_gateway.demo.blobs import GeneratedBlob
from mender_gateway.demo.cloud import Cloud
from mender_gateway.demo.faults import Drop, Gate
from tests.demo.asking import Ask

CONTENT = GeneratedBlob(500_000).read(0, 500_000)


@pytest.fixture
def stored(cloud: Cloud) -> Cloud:
    cloud.storage.put("object", CONTENT)
    return cloud


def raw(cloud: Cloud, extra: str = "") -> socket.socket:
    """A connection to the store on which the object was asked for."""
    link = cloud.storage.link("object").removeprefix(cloud.storage.base)
    host, _, port = cloud.storage.authority.rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=20)
    sock.sendall(f"GET {link} HTTP/1.1\r\nHost: {cloud.storage.authority}\r\n{extra}\r\n".encode())
    return sock


def received(sock: socket.socket) -> tuple[bytes, bool]:
    """The body bytes until the end, and whether that was an orderly one."""
    data, orderly = b"", True
    try:
        while piece := sock.recv(1 << 16):
            data += piece
    except ConnectionResetError:
        orderly = False
    finally:
        sock.close()
    return data.partition(b"\r\n\r\n")[2], orderly


@pytest.mark.parametrize("after", [0, 1, 1000, 131_072, 499_999])
def test_a_cut_comes_after_exactly_so_many_bytes(stored: Cloud, after: int) -> None:
    stored.storage.script("GET *", faults.cut(after))
    body, orderly = received(raw(stored))
    assert body == CONTENT[:after]
    assert orderly


def test_a_reset_is_no_orderly_end(stored: Cloud) -> None:
    stored.storage.script("GET *", faults.cut(100_000, reset=True))
    body, orderly = received(raw(stored))
    assert not orderly
    assert CONTENT.startswith(body)
    assert len(body) <= 100_000


def test_a_rule_is_used_as_often_as_said(stored: Cloud, ask: Ask) -> None:
    rule = stored.upstream.script("GET /gone", faults.answer(503), times=2)
    statuses = [ask(stored.upstream.base, "GET", "/gone").status for _ in range(3)]
    assert statuses == [503, 503, 200]
    assert rule.used == 2


def test_a_cancelled_rule_applies_no_more(stored: Cloud, ask: Ask) -> None:
    rule = stored.upstream.script("GET /gone", faults.answer(503), times=None)
    assert ask(stored.upstream.base, "GET", "/gone").status == 503
    rule.cancel()
    assert ask(stored.upstream.base, "GET", "/gone").status == 200


def test_a_stall_lasts_until_the_gate_opens(stored: Cloud) -> None:
    gate = Gate()
    stored.storage.script("GET *", faults.stalled(200_000, gate))
    sock = raw(stored)
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(1)
    body = b""
    while len(body) < 200_000:
        body += sock.recv(1 << 16)
    gate.wait_reached(10)
    assert len(body) == 200_000
    gate.release()
    while len(body) < 500_000:
        body += sock.recv(1 << 16)
    sock.close()
    assert body == CONTENT


def test_a_held_answer_waits_for_the_gate(stored: Cloud, ask: Ask) -> None:
    gate = Gate()
    stored.upstream.script("GET /held", faults.held(gate))
    statuses: list[int] = []
    asking = threading.Thread(
        target=lambda: statuses.append(ask(stored.upstream.base, "GET", "/held").status)
    )
    asking.start()
    gate.wait_reached(10)
    assert not statuses
    gate.release()
    asking.join(10)
    assert statuses == [200]


@pytest.mark.parametrize(
    ("when", "body_length", "known"),
    [(Drop.BEFORE_READING, 0, 0), (Drop.AFTER_READING, 2, 0), (Drop.AFTER_PROCESSING, 2, 1)],
)
def test_a_drop_happens_before_or_after_the_work(
    cloud: Cloud, ask: Ask, when: Drop, body_length: int, known: int
) -> None:
    login = "/api/management/v1/useradm/auth/login"
    cloud.upstream.script(f"POST {login}", faults.dropped(when))
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        ask(cloud.upstream.base, "POST", login, {}, b"{}")
    cloud.upstream.wait_for(lambda: cloud.upstream.requests[0].done)
    [exchange] = cloud.upstream.requests
    assert exchange.body_length == body_length
    assert exchange.status is None
    assert not exchange.complete
    assert cloud.upstream.users.logins == known


def test_answers_can_be_bent(stored: Cloud, ask: Ask) -> None:
    base = stored.storage.base
    link = stored.storage.link("object").removeprefix(base)
    storage = stored.storage
    storage.script("*", faults.with_header("Content-Encoding", "br"))
    assert ask(base, "GET", link).header("content-encoding") == "br"
    storage.script("*", faults.with_header("ETag", '"other"'))
    assert ask(base, "GET", link).header("etag") == '"other"'
    storage.script("*", faults.redirect("http://elsewhere/"))
    moved = ask(base, "GET", link)
    assert (moved.status, moved.header("location")) == (302, "http://elsewhere/")
    storage.script("*", faults.ignoring_range())
    assert ask(base, "GET", link, {"Range": "bytes=5-"}).status == 200
    storage.script("*", faults.expired())
    assert ask(base, "GET", link).status == 403


@pytest.mark.parametrize("framing", ["close", "chunked"])
def test_an_answer_can_lack_its_length(stored: Cloud, ask: Ask, framing: str) -> None:
    base = stored.storage.base
    behaviour = faults.without_length("chunked" if framing == "chunked" else "close")
    stored.storage.script("*", behaviour)
    answer = ask(base, "GET", stored.storage.link("object").removeprefix(base))
    assert answer.header("content-length") is None
    assert answer.body == CONTENT


@pytest.mark.parametrize("length", [10, 600_000])
def test_a_wrong_length_ends_the_connection(stored: Cloud, length: int) -> None:
    stored.storage.script("*", faults.declared_length(length))
    body, orderly = received(raw(stored))
    assert (body, orderly) == (CONTENT, True)


def test_requests_are_logged_as_they_came(cloud: Cloud) -> None:
    host, _, port = cloud.upstream.base.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        sock.sendall(
            b"PUT /a%2Fb?x=1&y=%20 HTTP/1.1\r\nHOST: h\r\nx-Odd: 1\r\nX-odd: 2\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
            b"GET /second HTTP/1.1\r\nHost: h\r\n\r\n"
        )
        cloud.upstream.wait_for(lambda: len(cloud.upstream.requests_to("GET /second")) == 1)
        cloud.upstream.wait_for(lambda: cloud.upstream.requests[1].done)
    first, second = cloud.upstream.requests
    assert (first.method, first.target, first.version) == ("PUT", "/a%2Fb?x=1&y=%20", "1.1")
    names = ["HOST", "x-Odd", "X-odd", "Transfer-Encoding"]
    assert [name for name, _ in first.headers] == names
    assert (first.body, first.body_length, first.body_complete) == (b"abcde", 5, True)
    assert first.query == {"x": "1", "y": " "}
    assert first.connection == second.connection
    assert first.peer == second.peer
    assert (first.sequence, second.sequence) == (0, 1)
    assert (second.status, second.complete) == (200, True)


def test_waiting_has_a_deadline(cloud: Cloud) -> None:
    with pytest.raises(TimeoutError):
        cloud.upstream.wait_for(lambda: False, timeout=0.1)
