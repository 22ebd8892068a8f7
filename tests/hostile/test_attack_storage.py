"""Storage that lies, redirects or trickles; what devices could make of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.messages import asking, telling
from tests.support.pki import ServerPki
from tests.support.scripted import Peer, connect
from tests.support.served import Start
from tests.support.stage import Leave, Received, Stage, running_stage

NEXT = "/api/devices/v2/deployments/device/deployments/next"
BASE = "http://gateway.test"


def features(folder: Path, cache: bool = False) -> dict[str, Any]:
    proxy = {
        "Enabled": True,
        "GatewayURL": BASE,
        "DomainWhitelist": ["127.0.0.1"],
        "ArtifactsCache": {"Enabled": cache, "Path": str(folder / "cache")},
    }
    return {"Features": {"ArtifactsProxy": proxy}}


def instructions(url: str, *fields: bytes) -> bytes:
    source = {"uri": url, "expire": "2030-01-01T00:00:00Z"}
    document = {"id": "1", "artifact": {"artifact_name": "a", "source": source}}
    return telling(json.dumps(document).encode(), *fields)


def link(gateway: GatewayProcess, upstream: Stage, url: str, *fields: bytes) -> str:
    """The local link that a device is given for the storage link `url`."""
    upstream.answer(NEXT, instructions(url, *fields))
    with connect(gateway.ports["http"]) as peer:
        peer.send(asking(NEXT, method=b"POST", body=b"{}"))
        status, _, body = peer.answer()
    assert status == 200
    uri: str = json.loads(body)["artifact"]["source"]["uri"]
    assert uri.startswith(BASE + "/mender-gateway/"), uri
    return uri.removeprefix(BASE)


def get(gateway: GatewayProcess, path: str, *fields: bytes) -> tuple[int, bytes, bytes]:
    with connect(gateway.ports["http"]) as peer:
        peer.send(asking(path, *fields))
        return peer.answer()


def redirecting(location: str) -> bytes:
    return telling(b"", b"Location: " + location.encode(), status=b"302 Found")


@pytest.mark.parametrize("cache", [False, True], ids=["uncached", "cached"])
@pytest.mark.parametrize(
    "path",
    [
        "/api/internal/v1/devices",
        "/API/Internal/v1/devices",
        "/%61pi/internal/v1/devices",
        "/x/..%2fapi/internal/v1/devices",
        "//api/internal/v1/devices",
        "/api/management/v1/x",
    ],
)
def test_a_redirect_never_leads_to_an_api(
    start: Start, stage: Stage, tmp_path: Path, cache: bool, path: str
) -> None:
    """The server's own host is often whitelisted; its APIs are no storage all the same."""
    gateway = start(stage.url, features(tmp_path, cache))
    with running_stage() as storage:
        storage.answer("/object", redirecting(stage.url + path))
        before = len(stage.received)
        status, _, body = get(gateway, link(gateway, stage, storage.url + "/object"))
        assert (status, b"redirects" in body) == (502, True)
        assert [r.start for r in stage.received[before:] if NEXT.encode() not in r.start] == []


def test_a_redirect_never_leaves_tls(
    start: Start, stage: Stage, tmp_path: Path, pki: ServerPki
) -> None:
    """Who stands between us and the store could answer in its place, for all devices."""
    with running_stage() as plain, running_stage(pki.server_context()) as secure:
        gateway = start(
            stage.url,
            features(tmp_path, True),
            {"UpstreamServer": {"CACertificate": str(pki.ca)}},
        )
        plain.answer("/there", telling(b"not what was sent"))
        secure.answer("/object", redirecting(plain.url + "/there"))
        path = link(gateway, stage, secure.url.replace("http:", "https:") + "/object")
        status, _, body = get(gateway, path)
        assert (status, b"redirects" in body) == (502, True)
        assert plain.received == []


def test_the_end_of_an_uncached_artifact_does_not_cost_the_whole(
    start: Start, stage: Stage, tmp_path: Path
) -> None:
    """`bytes=-1` asks for one byte; the uplink must not carry all those before it."""
    length = 200_000_000
    wanted: list[bytes] = []

    def part(peer: Peer, request: Received) -> None:
        ranges = request.values(b"Range")
        wanted.extend(ranges)
        if ranges:
            first = int(ranges[0].removeprefix(b"bytes=").split(b"-")[0])
            size = length - first
            peer.send(
                b"HTTP/1.1 206 X\r\nContent-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\n\r\n"
                % (first, length - 1, length, size)
            )
            peer.send(b"e" * size)
            return
        peer.send(b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n" % length)
        sent = 0
        try:
            while sent < length:
                peer.send(bytes(65536))
                sent += 65536
        except OSError:
            raise Leave from None
        finally:
            carried.append(sent)

    carried: list[int] = []
    gateway = start(stage.url, features(tmp_path))
    with running_stage() as storage:
        storage.on("/object", part)
        path = link(gateway, stage, storage.url + "/object")
        status, head, body = get(gateway, path, b"Range: bytes=-1")
        assert (status, body) == (206, b"e")
        assert b"Content-Range: bytes %d-%d/%d" % (length - 1, length - 1, length) in head
        assert wanted == [b"bytes=%d-" % (length - 1)]
    assert sum(carried) < length / 4


@pytest.mark.parametrize("cache", [False, True], ids=["uncached", "cached"])
@pytest.mark.parametrize("length", [2**63 - 1, 2**62, 2**50])
def test_an_absurd_length_harms_nobody(
    start: Start, stage: Stage, tmp_path: Path, cache: bool, length: int
) -> None:
    def part(peer: Peer, request: Received) -> None:
        peer.send(b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\nbeginning" % length)
        peer.ended()
        raise Leave

    gateway = start(stage.url, features(tmp_path, cache))
    with running_stage() as storage:
        storage.on("/object", part)
        path = link(gateway, stage, storage.url + "/object")
        with connect(gateway.ports["http"]) as peer:
            peer.send(asking(path))
            head = peer.read_head()
            assert head.startswith(b"HTTP/1.1 200 "), head
            assert b"Content-Length: %d\r\n" % length in head
            assert peer.read_exactly(9) == b"beginning"
        storage.answer("/sound", telling(b"sound", b'ETag: "1"'))
        assert get(gateway, link(gateway, stage, storage.url + "/sound"))[2] == b"sound"


@pytest.mark.parametrize("cache", [False, True], ids=["uncached", "cached"])
@pytest.mark.parametrize(
    "field",
    [
        b'ETag: "\xff\xfe"',
        b"ETag: \xe2\x80\xa8",
        b'ETag: "' + b"a" * 30_000 + b'"',
        b"Content-Type: \xf0\x9f\x98\x80\t;x",
        b"Content-Type:",
        b"Last-Modified: Mon, 99 Foo 0000 99:99:99 GMT",
        b"Last-Modified: " + b"9" * 20_000,
        b"Content-Range: bytes 5-9/10",
        b"Content-Encoding:",
        b"Date: Fri, 31 Dec 9999 23:59:59 GMT",
    ],
    ids=lambda field: repr(field[:24]),
)
def test_no_field_of_storage_makes_an_artifact_unservable(
    start: Start, stage: Stage, tmp_path: Path, cache: bool, field: bytes
) -> None:
    gateway = start(stage.url, features(tmp_path, cache))
    with running_stage() as storage:
        storage.answer("/object", telling(b"content", field))
        path = link(gateway, stage, storage.url + "/object")
        for _ in range(3):
            status, head, body = get(gateway, path)
            assert status in (200, 502)
            if status == 200:
                assert body == b"content"
                assert head.count(b"\r\n\r\n") == 1
        for wanted in (b"Range: bytes=3-", b'If-None-Match: "x"', b"If-Range: \xff"):
            assert get(gateway, path, wanted)[0] in (200, 206, 416, 502)


@pytest.mark.parametrize(
    "date",
    [
        b"Mon, 01 Jan 0100 00:00:00 GMT",
        b"Thu, 01 Jan 1970 00:00:00 GMT",
        b"Fri, 31 Dec 9999 23:59:59 GMT",
        b"Fri, 31 Dec 9999 23:59:59 -2359",
        b"Tue, 01 Jan 2030 00:00:00 +9999999999",
        b"1" * 5000,
        b"Mon, 1 Jan 99999999999999999999 00:00:00 GMT",
        b"\xff\xfe",
    ],
    ids=lambda date: repr(date[:30]),
)
def test_no_date_of_the_server_makes_links_useless(
    start: Start, stage: Stage, tmp_path: Path, date: bytes
) -> None:
    """The clock follows the server, but not to where no server can be."""
    gateway = start(stage.url, features(tmp_path))
    with running_stage() as storage:
        storage.answer("/object", telling(b"content"))
        path = link(gateway, stage, storage.url + "/object", b"Date: " + date)
        assert get(gateway, path)[2] == b"content"
        stage.answer("/ping", telling(b"ok"))
        assert get(gateway, "/ping")[2] == b"ok"
        assert get(gateway, path)[2] == b"content"
        other = link(gateway, stage, storage.url + "/object")
        assert get(gateway, other)[2] == b"content"
