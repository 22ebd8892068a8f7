"""What the log says of requests, and what it never holds."""

import json
import re
import socket
from pathlib import Path

import pytest

from tests.support.gateway import GatewayProcess, start_gateway
from tests.support.messages import asking, telling
from tests.support.scripted import connect
from tests.support.served import Start, plain
from tests.support.stage import Stage

SECRET = "s3cr3tvalue"
"""Stands in every place where a secret may come by."""
JWT = (
    b"eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9."
    b"eyJzdWIiOiJkZXZpY2UtNDcxMSIsImV4cCI6MX0."
    b"c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
)


def exchange(gateway: GatewayProcess, *messages: bytes) -> None:
    for message in messages:
        with connect(gateway.ports["http"]) as peer:
            peer.send(message)
            peer.read_head()


def test_each_request_has_one_line_with_what_an_operator_needs(
    start: Start, stage: Stage, path: str
) -> None:
    stage.answer(path, telling(b"hello", b"X-MEN-RequestID: id-1"))
    gateway = start(stage.url)
    exchange(gateway, asking(f"{path}?a=b", b"Authorization: Bearer " + JWT))
    found = gateway.wait_for_log(r"time=\S+ level=info msg=request .*\n")
    fields = dict(re.findall(r'(\w+)=("[^"]*"|\S+)', found[0]))
    assert fields["method"] == "GET"
    assert fields["path"] == path
    assert fields["status"] == "200"
    assert fields["bytes"] == "5"
    assert 0 < float(fields["duration"]) < 10
    assert fields["device"] == "device-4711"
    assert fields["request_id"] == "id-1"
    assert fields["peer"] == "127.0.0.1"
    assert gateway.log.count("msg=request") == 1


@pytest.mark.parametrize(
    ("status", "level"),
    [(b"200 OK", "info"), (b"304 Not Modified", "info"), (b"401 Unauthorized", "warning"),
     (b"404 Not Found", "warning"), (b"500 Error", "error"), (b"503 Busy", "error")],
)  # fmt: skip
def test_the_level_of_the_line_is_that_of_the_status(
    stage: Stage, gateway: GatewayProcess, path: str, status: bytes, level: str
) -> None:
    stage.answer(path, telling(b"", status=status))
    exchange(gateway, asking(path))
    gateway.wait_for_log(f"level={level} msg=request method=GET path={path} ")


def test_the_other_form_is_one_json_object_a_line(tmp_path: Path, stage: Stage, path: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    config = plain(stage.url, {"HTTP": {"Listen": f"127.0.0.1:{port}"}})
    gateway = start_gateway(tmp_path, config, "--log-format", "json", wait=False)
    try:
        gateway.wait_for_log('"msg": "listening"')
        gateway.ports["http"] = port
        exchange(gateway, asking(path))
        gateway.wait_for_log('"msg": "request"')
    finally:
        assert gateway.stop() == 0
    lines = [json.loads(line) for line in gateway.log.splitlines()]
    (access,) = [line for line in lines if line["msg"] == "request"]
    assert (access["method"], access["path"], access["status"]) == ("GET", path, 200)


def secrets_everywhere(path: str) -> list[bytes]:
    value = SECRET.encode()
    return [
        asking(f"{path}?x-men-signature={SECRET}&X-Amz-Signature={SECRET}&token={SECRET}"),
        asking(path, b"Authorization: Bearer " + value + b"." + JWT),
        asking(path, b"Authorization: Basic " + value),
        asking(path, b"Proxy-Authorization: Basic " + value),
        asking(path, b"Cookie: session=" + value),
        asking(path, b"X-MEN-Signature: " + value),
        asking(path, method=b"POST", body=b'{"password":"' + value + b'"}'),
        asking(f"/download/{SECRET}{'0123456789abcdef' * 4}/x"),
        asking(f"{path}#token={SECRET}"),
        asking(f"/api/internal/x?token={SECRET}"),
        b"GET /a b?token=" + value + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\nBad " + value + b"\r\n\r\n",
        b"BAD" + value + b" / HTTP/1.1\r\n\r\n",
        asking(path, b"Transfer-Encoding: " + value),
        asking(path, b"Content-Length: " + value),
        asking(path, b"Transfer-Encoding: chunked", method=b"POST") + value + b"\r\n",
        asking(path, b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: " + value),
    ]


def test_no_secret_of_a_request_or_an_answer_is_ever_in_the_log(
    start: Start, stage: Stage, path: str
) -> None:
    value = SECRET.encode()
    gateway = start(stage.url, args=("--log-level", "debug"))
    exchange(gateway, *secrets_everywhere(path))
    for number, answer in enumerate(
        (
            telling(JWT + value, b"Content-Type: application/jwt"),
            telling(b"", b"Set-Cookie: session=" + value, b"Location: /x?token=" + value),
            telling(value, status=b"500 " + value),
            b"HTTP/1.1 200 OK\r\nBad " + value + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + value + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + value + b"\r\n",
        )
    ):
        stage.answer(f"{path}/{number}", answer)
        exchange(gateway, asking(f"{path}/{number}", method=b"POST"))
    exchange(gateway, asking("/the-end"))
    gateway.wait_for_log("path=/the-end")
    assert gateway.log.count("msg=request") >= 20
    assert SECRET not in gateway.log
    assert JWT.decode() not in gateway.log
    assert JWT.split(b".")[2].decode() not in gateway.log


def test_no_secret_of_the_configuration_is_ever_in_the_log(start: Start, stage: Stage) -> None:
    proxy = f"http://user:{SECRET}@127.0.0.1:9"
    gateway = start(
        "http://upstream.example:8080",
        args=("--log-level", "debug"),
        environment={"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy},
    )
    exchange(gateway, asking("/x"), asking("/api/internal/v1/gateway/health"))
    gateway.wait_for_log("status=502")
    assert gateway.stop() == 0
    assert SECRET not in gateway.log


def test_a_hostile_path_cannot_write_lines_of_its_own(
    stage: Stage, gateway: GatewayProcess
) -> None:
    exchange(
        gateway,
        asking('/x%0alevel=error"msg=forged'),
        asking('/x"\\level=error'),
        asking("/hostile-end", b"Authorization: Bearer a.eyJzdWIiOiJ4XG5sZXZlbD1lcnJvciJ9.c"),
    )
    gateway.wait_for_log("path=/hostile-end")
    for line in gateway.log.splitlines():
        assert line.startswith('time="'), line
