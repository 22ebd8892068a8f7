"""The internal APIs are closed, in whatever disguise they are asked for."""

import pytest

from tests.support.messages import asking, telling
from tests.support.served import Dial
from tests.support.stage import Stage

DISGUISES = [
    "/api/internal/v1/deviceauth/tokens/verify",
    "/api/internal",
    "/api/internal/",
    "/api/internal?x=y",
    "/api/internal/v1/gateway",
    "/api/internal/v1/gateway/alive/",
    "/api/internal/v1/gateway/alive/x",
    "/api/internal/v2/gateway/alive",
    "/API/Internal/v1/x",
    "/api/INTERNAL/v1/x",
    "//api/internal/v1/x",
    "/api//internal/v1/x",
    "/api/./internal/v1/x",
    "/./api/internal/v1/x",
    "/x/../api/internal/v1/x",
    "/api/devices/../internal/v1/x",
    "/api/devices/v1/../../internal/v1/x",
    "/../../api/internal/v1/x",
    "/api/%69nternal/v1/x",
    "/%61%70%69/internal/v1/x",
    "/api/%49NTERNAL/v1/x",
    "/api%2Finternal/v1/x",
    "/api%2finternal%2fv1",
    "/api/%2e/internal/v1/x",
    "/api/devices/%2e%2e/internal/v1/x",
    "/api/devices/..%2Finternal/v1/x",
    "/api/devices/%2E%2e%2finternal/x",
    "/api/%2569nternal/v1/x",
    "/api%252Finternal/v1/x",
    "/api\\internal\\v1",
    "/api/devices/..\\internal/v1/x",
    "/api%5Cinternal/v1/x",
    "/api;x=y/internal/v1/x",
    "/api/internal;x=y/v1/x",
    "/api/devices/..;/internal/v1/x",
    "/;/api/internal/v1/x",
    "/api/x;/../internal/v1/x",
]


@pytest.mark.parametrize("listener", ["http", "https", "metrics"])
def test_no_disguise_reaches_the_internal_apis(stage: Stage, dial: Dial, listener: str) -> None:
    before = len(stage.received)
    for target in DISGUISES:
        for method in (b"GET", b"POST", b"HEAD"):
            peer = dial(listener)
            peer.send(asking(target, method=method))
            head = peer.read_head()
            assert head.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), (target, head)
            peer.close()
    assert len(stage.received) == before


@pytest.mark.parametrize("fields", [
    (b"Connection: Upgrade", b"Upgrade: websocket"),
    (b"X-HTTP-Method-Override: GET",),
    (b"Content-Length: 5",),
    (b"Transfer-Encoding: chunked",),
    (b"Authorization: Bearer x.y.z",),
])  # fmt: skip
def test_no_field_opens_them(stage: Stage, dial: Dial, fields: tuple[bytes, ...]) -> None:
    before = len(stage.received)
    peer = dial()
    peer.send(asking("/api/internal/v1/x", *fields, method=b"POST") + b"5\r\nhello\r\n0\r\n\r\n")
    assert peer.answer()[0] == 404
    assert len(stage.received) == before


@pytest.mark.parametrize("name", [b"X-Original-URL", b"X-Rewrite-URL", b"x-original-url"])
def test_fields_that_frameworks_route_by_do_not_cross(
    stage: Stage, dial: Dial, path: str, name: bytes
) -> None:
    peer = dial()
    peer.send(asking(path, name + b": /api/internal/v1/x"))
    assert peer.answer()[2] == b"ok"
    assert stage.one(path).values(name) == []


@pytest.mark.parametrize(
    "target",
    [
        "/api/internals/v1",
        "/api/devices/v1/internal",
        "/internal/api",
        "/x?/api/internal/",
        "/x/api/internal",
        "/apiinternal",
    ],
)
def test_what_only_looks_like_them_is_forwarded(stage: Stage, dial: Dial, target: str) -> None:
    stage.answer(target.partition("?")[0], telling(b"forwarded"))
    peer = dial()
    peer.send(asking(target))
    assert peer.answer()[2] == b"forwarded"
    assert stage.received[-1].start == b"GET %b HTTP/1.1" % target.encode()


@pytest.mark.parametrize(
    "target",
    [
        "/api/devices/v1/authentication/%61uth_requests",
        "/api/devices/v1//authentication/auth_requests",
        "/api/devices/v1/x/../authentication/auth_requests",
        "/api/devices/v1/inventory/./device/attributes",
        "/%61pi/devices/v1/x",
        "/api/devices/../management/v1/x",
    ],
)
def test_a_path_that_is_two_things_at_once_is_refused(
    stage: Stage, dial: Dial, target: str
) -> None:
    before = len(stage.received)
    peer = dial()
    peer.send(asking(target, method=b"POST"))
    status, _, body = peer.answer()
    assert status == 400
    assert b"raw and normalised" in body
    assert len(stage.received) == before
