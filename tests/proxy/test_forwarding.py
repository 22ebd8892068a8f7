"""What crosses the gateway as it is, and what goes in its place."""

import pytest

from tests.support.messages import EMPTY, asking
from tests.support.served import Dial
from tests.support.stage import Stage


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "?",
        "?a=%2F%2f+;|$'()*~",
        "?X-Amz-Signature=0a%2Bb%2F&x-men-expire=2030-01-01T00%3A00%3A00Z",
        "/%2F%2f/a+b;c|d$'()*~",
        "//double//slash/",
        "/./dot/../dot",
        "/%7Euser/%41",
        "/100%/%zz",
        "/back\\slash",
        '/{curly}[square]^`"<>',
        "?a?b?c=d&&e=",
    ],
)
def test_path_and_query_cross_byte_for_byte(stage: Stage, dial: Dial, rest: str) -> None:
    target = f"/api/devices/v1/bytes{rest}"
    peer = dial()
    peer.send(asking(target))
    assert peer.answer()[0] == 200
    assert stage.received[-1].start == b"GET %b HTTP/1.1" % target.encode()


def test_a_request_keeps_its_fields_with_case_order_and_repetition(
    stage: Stage, dial: Dial, path: str
) -> None:
    own = [
        b"User-Agent: Go-http-client/1.1",
        b"Authorization: Bearer",
        b"X-MEN-Signature: rLMu+sIPbCn1uSWN==",
        b"x-lower: 1",
        b"X-Twice: a",
        b"X-Between: b",
        b"X-Twice: c",
        b"Accept-Encoding: gzip",
        b"X-Latin: caf\xe9",
        b"X-Empty: ",
    ]
    stage.answer(path, EMPTY)
    peer = dial()
    peer.send(asking(path, *own))
    peer.answer()
    head = stage.one(path).head
    at = [head.find(b"\r\n" + line + b"\r\n") for line in own]
    assert -1 not in at, head
    assert at == sorted(at), head


@pytest.mark.parametrize(
    "field",
    [
        b"Connection: keep-alive",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authorization: Basic eDp5",
        b"TE: trailers",
        b"Trailer: X-Sum",
        b"Upgrade: h2c",
        b"Forwarded: for=1.2.3.4",
        b"X-Forwarded-For: 1.2.3.4",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: evil.example",
        b"X_Forwarded_For: 1.2.3.4",
        b"X-Real-IP: 1.2.3.4",
    ],
)
def test_what_belongs_to_one_hop_or_to_the_gateway_does_not_cross(
    stage: Stage, dial: Dial, path: str, field: bytes
) -> None:
    stage.answer(path, EMPTY)
    peer = dial()
    peer.send(asking(path, field))
    peer.answer()
    assert field not in stage.one(path).head.split(b"\r\n")


def test_fields_that_connection_names_do_not_cross_either_way(
    stage: Stage, dial: Dial, path: str
) -> None:
    stage.answer(
        path, b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 2\r\nX-End: 3\r\n"
        b"Content-Length: 0\r\n\r\n",
    )  # fmt: skip
    peer = dial()
    peer.send(asking(path, b"Connection: keep-alive, X-Hop", b"X-Hop: 1", b"X-End: 1"))
    _, head, _ = peer.answer()
    request = stage.one(path)
    assert request.values(b"X-Hop") == []
    assert request.values(b"X-End") == [b"1"]
    assert b"X-Hop" not in head
    assert b"\r\nX-End: 3\r\n" in head


@pytest.mark.parametrize("listener", ["http", "https"])
def test_the_gateway_says_who_asked_and_how(
    stage: Stage, dial: Dial, path: str, listener: str
) -> None:
    stage.answer(path, EMPTY)
    peer = dial(listener)
    peer.send(asking(path, b"X-Forwarded-For: 9.9.9.9", b"Via: 1.1 before"))
    peer.answer()
    request = stage.one(path)
    authority = f"127.0.0.1:{stage.server.port}".encode()
    assert request.values(b"Host") == [authority]
    assert request.values(b"X-Forwarded-For") == [b"127.0.0.1"]
    assert request.values(b"X-Forwarded-Proto") == [listener.encode()]
    assert request.values(b"X-Forwarded-Host") == [authority]
    assert request.values(b"Forwarded") == [
        b'for=127.0.0.1;host="%b";proto=%b' % (authority, listener.encode())
    ]
    assert request.values(b"Via") == [b"1.1 before", b"1.1 mender-gateway"]


@pytest.mark.parametrize(
    "start_line",
    [
        b"200 OK",
        b"200 Fine, thank you",
        b"200 ",
        b"201 Created",
        b"202 Accepted",
        b"302 Found",
        b"307 Temporary Redirect",
        b"400 Bad Request",
        b"401 Unauthorized",
        b"403 Forbidden",
        b"404 Not Found",
        b"405 Method Not Allowed",
        b"409 Conflict",
        b"413 Request Entity Too Large",
        b"429 Too Many Requests",
        b"500 Internal Server Error",
        b"503 Service Unavailable",
        b"599 \xe4\xf6\xfc",
    ],
)
def test_status_reason_fields_and_body_of_an_answer_pass_exactly(
    stage: Stage, dial: Dial, path: str, start_line: bytes
) -> None:
    fields = (
        b"content-type: Application/JSON\r\nRetry-After: 60\r\nX-MEN-RequestID: 8f0c\r\n"
        b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nLocation: /elsewhere\r\nServer: nginx\r\n"
        b"WWW-Authenticate: Bearer\r\nDate: Tue, 01 Jan 2030 00:00:00 GMT\r\n"
    )
    body = b'{"error":"as it is", "n": 1.0}\n'
    stage.answer(
        path,
        b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (start_line, fields, len(body), body),
    )
    peer = dial()
    peer.send(asking(path))
    _, head, got = peer.answer()
    assert head == b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n" % (start_line, fields, len(body))
    assert got == body


@pytest.mark.parametrize(
    ("method", "answer", "expected"),
    [
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (
            b"PUT",
            b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
        ),
        (
            b"GET",
            b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 5\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 5\r\n\r\n",
        ),
        (
            b"GET",
            b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
        ),
        (
            b"HEAD",
            b"HTTP/1.1 200 OK\r\nContent-Length: 123456789\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 123456789\r\n\r\n",
        ),
        (
            b"HEAD",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
        ),
        (
            b"HEAD",
            b"HTTP/1.1 404 Not Found\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\n\r\n",
        ),
        (b"POST", EMPTY, EMPTY),
    ],
)
@pytest.mark.parametrize("listener", ["http", "https"])
def test_an_answer_without_a_body_stays_empty_and_the_connections_live_on(
    stage: Stage,
    dial: Dial,
    path: str,
    method: bytes,
    answer: bytes,
    expected: bytes,
    listener: str,
) -> None:
    stage.answer(path, answer)
    peer = dial(listener)
    for _ in range(2):
        peer.send(asking(path, method=method))
        assert peer.read_head() == expected
        assert peer.buffer == b""
    peer.send(asking("/after"))
    assert peer.answer()[2] == b"ok"
    first, second = stage.of(path)
    assert first.connection == second.connection


def test_interim_answers_do_not_reach_the_device(stage: Stage, dial: Dial, path: str) -> None:
    stage.answer(
        path,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    )
    peer = dial()
    peer.send(asking(path))
    assert peer.answer() == (200, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"hi")


@pytest.mark.parametrize(
    "method",
    [b"GET", b"PUT", b"POST", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"PROPFIND", b"PURGE"],
)
def test_methods_pass_with_and_without_a_body(
    stage: Stage, dial: Dial, path: str, method: bytes
) -> None:
    peer = dial()
    peer.send(asking(path, method=method))
    assert peer.answer()[2] == b"ok"
    peer.send(asking(path, b"Content-Length: 4", method=method) + b"body")
    assert peer.answer()[2] == b"ok"
    without, with_body = stage.of(path)
    assert without.start == with_body.start == b"%b %b HTTP/1.1" % (method, path.encode())
    assert without.values(b"Content-Length") == []
    assert (without.body, with_body.body) == (b"", b"body")
    assert with_body.values(b"Content-Length") == [b"4"]


def test_an_explicitly_empty_body_stays_explicit(stage: Stage, dial: Dial, path: str) -> None:
    peer = dial()
    peer.send(asking(path, b"Content-Length: 0", method=b"POST"))
    peer.answer()
    assert stage.one(path).values(b"Content-Length") == [b"0"]


def test_an_authentication_body_crosses_with_its_last_newline(stage: Stage, dial: Dial) -> None:
    path = "/api/devices/v1/authentication/auth_requests"
    body = b'{"id_data":"{\\"mac\\":\\"02:69\\"}","tenant_token":"","pubkey":"x\\n"}\n'
    jwt = b"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"
    stage.answer(
        path,
        b"HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\nContent-Length: %d\r\n\r\n%b"
        % (len(jwt), jwt),
    )
    peer = dial()
    peer.send(asking(path, b"Content-Length: %d" % len(body), method=b"POST") + body)
    assert peer.answer()[2] == jwt
    assert stage.one(path).body == body


def test_very_many_fields_cross(stage: Stage, dial: Dial, path: str) -> None:
    fields = [b"X-%d: v" % number for number in range(500)]
    stage.answer(path, b"HTTP/1.1 200 OK\r\n%b\r\nContent-Length: 0\r\n\r\n" % b"\r\n".join(fields))
    peer = dial()
    peer.send(asking(path, *fields))
    _, head, _ = peer.answer()
    assert [line for line in head.split(b"\r\n") if line.startswith(b"X-")] == fields
    request = stage.one(path)
    assert [b": ".join(field) for field in request.fields if field[1] == b"v"] == fields
