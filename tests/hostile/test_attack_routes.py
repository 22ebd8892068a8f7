"""Paths that a server behind the gateway may read as another API than the gateway does.

What the gateway does on its own routes (inventory of the system, auth requests under mutual TLS,
links) must not be avoided by an escaped slash that the server's framework decodes.
"""

import json

import pytest

from tests.support.messages import asking
from tests.support.served import Dial
from tests.support.stage import Stage

CONFIG = {"Features": {"DeviceSystem": {"Enabled": True, "SystemID": "ours"}}}

CLAIM = json.dumps([{"name": "mender_gateway_system_id", "value": "another"}]).encode()
INVENTORY = "/api/devices/v1/inventory/device/attributes"

DISGUISES = [
    "/api/devices/v1/inventory/device%2Fattributes",
    "/api%2fdevices/v1/inventory/device/attributes",
    "/api/devices/v1/inventory%2Fdevice%2Fattributes",
    "/api/devices/v1/inventory/device%252Fattributes",
    "/api/devices/v1/inventory/device\\attributes",
    "/api/devices/v1/inventory/device%5Cattributes",
    "/api/devices/v1/inventory/device/attributes;x=y",
    "/api/devices/v1/inventory;x/device/attributes",
    "/api/devices/v1/inventory/device/attributes%3Bx",
    "/api/devices/v1/inventory/x/..%2Fdevice/attributes",
    "/x/..%2fapi/devices/v1/inventory/device/attributes",
    "/api/devices/v1/authentication%2Fauth_requests",
    "/api/devices/v1/authentication/auth%255Frequests",
    "/api/devices/v2/deployments/device/deployments%2Fnext",
    "/api/devices/v1/deployments/device/deployments/1%2fstatus",
]


@pytest.mark.parametrize("target", DISGUISES)
def test_no_disguise_avoids_what_the_gateway_does_on_a_route(
    stage: Stage, dial: Dial, target: str
) -> None:
    before = len(stage.received)
    peer = dial()
    peer.send(asking(target, method=b"PUT", body=CLAIM))
    assert peer.answer()[0] == 400
    assert len(stage.received) == before


@pytest.mark.parametrize(
    "target",
    [
        "/api/management/v1/deployments/releases/a%2Fb",
        "/api/management/v1/inventory/filters;x=y",
        "/api/devices/v1/deviceconfig/configuration%2Fx",
        "/api/devices/v1/deployments/download/configuration/a%2Fb/c%20d?x-men-signature=%2F",
        "/bucket/a%2Fb%5Cc;d",
    ],
)
def test_escapes_elsewhere_pass_as_they_are(stage: Stage, dial: Dial, target: str) -> None:
    peer = dial()
    peer.send(asking(target))
    assert peer.answer()[2] == b"ok"
    assert stage.received[-1].start == b"GET " + target.encode() + b" HTTP/1.1"


def sent_on(stage: Stage, dial: Dial, body: bytes) -> tuple[int, bytes]:
    """Status for a report with `body`, and the body that came to the server."""
    before = len(stage.received)
    peer = dial()
    peer.send(asking(INVENTORY, method=b"PUT", body=body))
    status = peer.answer()[0]
    arrived = [r.body for r in stage.received[before:] if INVENTORY.encode() in r.start]
    assert len(arrived) <= 1
    return status, arrived[0] if arrived else b""


@pytest.mark.parametrize("tail", [b"x", b"[]", b" {", b"\n\n]", b",", b"\x00", b"\xff"], ids=repr)
def test_a_claim_before_rubbish_is_replaced(stage: Stage, dial: Dial, tail: bytes) -> None:
    """Go's json.Decoder reads the first value of a body and leaves the rest alone."""
    status, arrived = sent_on(stage, dial, CLAIM + tail)
    assert status == 200
    assert json.loads(arrived[: len(arrived) - len(tail)]) == [
        {"name": "mender_gateway_system_id", "value": "ours"}
    ]
    assert arrived.endswith(tail)


def test_rubbish_behind_a_report_does_not_keep_the_system_out(stage: Stage, dial: Dial) -> None:
    status, arrived = sent_on(stage, dial, b'[{"name":"a","value":"\xff"}] x')
    assert status == 200
    assert arrived == (
        b'[{"name":"a","value":"\xff"},{"name":"mender_gateway_system_id","value":"ours"}] x'
    )


def test_bytes_that_are_no_utf_8_do_not_keep_the_system_out(stage: Stage, dial: Dial) -> None:
    status, arrived = sent_on(stage, dial, b'[{"name":"a\xff","value":"b"}]')
    assert status == 200
    assert b'{"name":"mender_gateway_system_id","value":"ours"}]' in arrived


@pytest.mark.parametrize("depth", [900, 3000, 9000])
@pytest.mark.parametrize("begin", [b"", CLAIM[1:-1] + b","], ids=["no claim", "claim"])
def test_a_report_nested_too_deeply_to_be_read_does_not_pass_a_claim(
    stage: Stage, dial: Dial, depth: int, begin: bytes
) -> None:
    """Go reads 10,000 levels, and leaves out members that it does not know."""
    nested = b"[" * depth + b"]" * depth
    body = b"[" + begin + b'{"name":"a","value":"b","c":' + nested + b"}]"
    status, arrived = sent_on(stage, dial, body)
    assert status in (200, 400)
    if status == 200:
        assert b'{"name":"mender_gateway_system_id","value":"ours"}' in arrived
        assert b"another" not in arrived
    else:
        assert arrived == b""
