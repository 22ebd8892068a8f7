"""What hostile peers put into requests and answers neither blinds nor floods the log."""

import base64
import json
import socket
from collections.abc import Iterator

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.messages import asking
from tests.support.scripted import Peer, connect
from tests.support.served import Dial, Start
from tests.support.stage import Leave, Received, Stage


@pytest.fixture
def unused() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def token(payload: bytes) -> bytes:
    middle = base64.urlsafe_b64encode(payload).rstrip(b"=")
    return b"Authorization: Bearer eyJhbGciOiJub25lIn0." + middle + b".c2ln"


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"a":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}",
        b'{"sub":"\\ud800"}',
        b'{"sub":"\xff"}',
        b"[" * 30_000,
    ],
    ids=["deep list", "deep object", "half a character", "no UTF-8", "open lists"],
)
def test_no_token_keeps_a_request_out_of_the_log(
    stage: Stage, gateway: GatewayProcess, dial: Dial, path: str, payload: bytes
) -> None:
    peer = dial()
    for _ in range(2):  # and the connection goes on
        peer.send(asking(path, token(payload)))
        assert peer.answer()[2] == b"ok"
    gateway.wait_for_log(rf"msg=request method=GET path={path} status=200.*\n.*path={path} ")
    assert "Traceback" not in gateway.log
    assert "never retrieved" not in gateway.log


@pytest.mark.parametrize(
    "said", [b'","admin":"yes', b"\\", b'"', b"\xe9", b"x" * 20_000], ids=lambda said: said[:8]
)
def test_a_request_id_cannot_rewrite_an_error(
    stage: Stage, dial: Dial, path: str, said: bytes
) -> None:
    """The id comes from the upstream and goes into the gateway's own error body."""

    def part(peer: Peer, request: Received) -> None:
        request.body = peer.read_body(request.head)
        peer.send(
            b"HTTP/1.1 200 OK\r\nX-Men-Requestid: " + said + b"\r\n"
            b"Transfer-Encoding: chunked\r\n\r\nrubbish\r\n"
        )
        raise Leave

    stage.on(path, part)
    peer = dial()
    peer.send(asking(path))
    status, head, body = peer.answer()
    assert status == 502
    assert set(json.loads(body)) == {"error", "request_id"}
    assert len(head) + len(body) < 2_000


def test_a_device_does_not_learn_where_the_upstream_is(start: Start, unused: int) -> None:
    gateway = start(f"http://127.0.0.1:{unused}")
    with connect(gateway.ports["http"]) as peer:
        peer.send(asking("/x"))
        status, _, body = peer.answer()
        assert status == 502
        assert b"cannot connect" in json.loads(body)["error"].encode()
        assert str(unused).encode() not in body
        assert b"127.0.0.1" not in body
        peer.send(asking("/api/internal/v1/gateway/health"))
        status, _, body = peer.answer()
        assert status == 503
        assert json.loads(body) == {"reason": "upstream does not answer"}
    gateway.wait_for_log(rf"status=502 .*cannot connect.*127\.0\.0\.1:{unused}.*\n")
    gateway.wait_for_log(rf"status=503 .*upstream does not answer.*127\.0\.0\.1:{unused}")
