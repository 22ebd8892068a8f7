"""Inventory reports through the gateway, as the server gets them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import GatewayProcess, running_gateway
from tests.support.scripted import Peer, connect, requests, scripted_server

PATH = b"/api/devices/v1/inventory/device/attributes"
LIMIT = 64 * 1024
MARKED = [
    {"name": "mender_gateway_system_id", "value": "ship-7"},
    {"name": "region", "value": "eu"},
    {"name": "decks", "value": [1, 2.5]},
    {"name": "crew", "value": 12},
]


@dataclass
class Line:
    gateway: GatewayProcess
    received: list[tuple[bytes, bytes]] = field(default_factory=list)

    def report(self, body: bytes, method: bytes = b"PATCH", path: bytes = PATH) -> bytes:
        """What the server gets for a device's chunked report."""
        self.received.clear()
        device = connect(self.gateway.ports["http"])
        device.send(
            method + b" " + path + b" HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer x\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for start in range(0, len(body), 1000):
            piece = body[start : start + 1000]
            device.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        device.send(b"0\r\n\r\n")
        status, _, _ = device.answer()
        device.close()
        assert status == 200
        [(head, got)] = self.received
        assert b"content-length: %d" % len(got) in head.lower()
        assert b"transfer-encoding" not in head.lower()
        return got


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    received: list[tuple[bytes, bytes]] = []

    def server(peer: Peer) -> None:
        for head, body in requests(peer):
            received.append((head, body))
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with scripted_server(server) as upstream:
        config: dict[str, Any] = {
            "HTTP": {"Enabled": True, "Listen": "127.0.0.1:0"},
            "UpstreamServer": {"URL": upstream.url},
            "Features": {
                "DeviceSystem": {
                    "Enabled": True,
                    "SystemID": "ship-7",
                    "DefaultInventory": [
                        {"Name": "region", "Value": "eu"},
                        {"Name": "decks", "Value": [1, 2.5]},
                        {"Name": "crew", "Value": 12},
                    ],
                }
            },
            "Limits": {"JSONBytes": LIMIT},
        }
        with running_gateway(tmp_path_factory.mktemp("line"), config) as gateway:
            yield Line(gateway, received)


@pytest.mark.parametrize("method", [b"PUT", b"PATCH"])
def test_a_report_is_marked(line: Line, method: bytes) -> None:
    sent = b'[ {"name":"device_type","value":"lab"},{"name":"n","value":12345678901234567890} ]'
    got = line.report(sent, method)
    assert got.startswith(sent.rstrip(b" ]"))
    assert json.loads(got) == [*json.loads(sent), *MARKED]


def test_what_a_device_says_of_its_own_wins_but_for_the_system(line: Line) -> None:
    sent = [
        {"name": "region", "value": "us"},
        {"name": "mender_gateway_system_id", "value": "stolen"},
    ]
    got = json.loads(line.report(json.dumps(sent).encode()))
    assert [a for a in got if a["name"] == "region"] == [{"name": "region", "value": "us"}]
    systems = [a["value"] for a in got if a["name"] == "mender_gateway_system_id"]
    assert systems == ["ship-7"]


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"nonsense", b'[{"value":1}]'])
def test_what_is_no_report_passes_unchanged(line: Line, body: bytes) -> None:
    assert line.report(body) == body


def test_a_large_report_passes_whole(line: Line) -> None:
    sent = [{"name": f"n{number}", "value": "v" * 50} for number in range(600)]
    assert json.loads(line.report(json.dumps(sent).encode())) == [*sent, *MARKED]


def test_a_report_over_the_bound_is_413_and_reaches_nobody(line: Line) -> None:
    line.received.clear()
    for framing in (
        b"Content-Length: %d\r\n\r\n" % (LIMIT + 1),
        b"Transfer-Encoding: chunked\r\n\r\n",
    ):
        device = connect(line.gateway.ports["http"])
        device.send(b"PATCH " + PATH + b" HTTP/1.1\r\nHost: g\r\n" + framing)
        body = b"x" * (LIMIT + 1)
        if framing.startswith(b"T"):
            device.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        status, _, text = device.answer()
        assert status == 413
        assert set(json.loads(text)) == {"error", "request_id"}
        device.close()
    assert not line.received


def test_other_paths_and_methods_are_left_alone(line: Line, tmp_path: Path) -> None:
    body = b'[{"name":"a","value":"b"}]'
    line.received.clear()
    device = connect(line.gateway.ports["http"])
    for method, path in ((b"POST", PATH), (b"PUT", PATH + b"/x"), (b"PATCH", b"/elsewhere")):
        device.send(
            b"%b %b HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n%b"
            % (method, path, len(body), body)
        )
        assert device.answer()[0] == 200
        assert line.received.pop()[1] == body
    device.close()
