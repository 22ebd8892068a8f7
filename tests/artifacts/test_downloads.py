"""Downloads by local links as a device sees them, with and without the cache."""

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse, IncompleteRead
from pathlib import Path

import pytest

from mender_gateway.demo.faults import (
    Gate,
    answer,
    cut,
    declared_length,
    ignoring_range,
    redirect,
    stalled,
    with_header,
    without_length,
)
from tests.artifacts.site import Site, running_site

CONTENT = os.urandom(3 * 1024 * 1024 + 17)


@pytest.fixture(scope="module", params=[False, True], ids=["uncached", "cached"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site"), cache=request.param) as site:
        yield site


@pytest.fixture
def cached(tmp_path: Path) -> Iterator[Site]:
    with running_site(tmp_path, cache=True) as site:
        yield site


@pytest.fixture
def name(request: pytest.FixtureRequest, site: Site) -> str:
    """A fresh object in the store, so that tests share a gateway and no object."""
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:16]
    site.storage.put(name, CONTENT)
    return name


def object_of(path: str) -> str:
    return path.split("?", 1)[0]


def test_the_whole_artifact_comes_with_its_length_and_validators(site: Site, name: str) -> None:
    path = site.link(site.storage.link(name))
    for _ in range(2):
        status, headers, body = site.get(path)
        assert status == 200
        assert body == CONTENT
        assert headers["Content-Length"] == str(len(CONTENT))
        assert headers["ETag"] == f'"{hashlib.md5(CONTENT).hexdigest()}"'
        assert headers["Last-Modified"]
        assert headers["Content-Type"] == "application/vnd.mender-artifact"
        assert headers["Content-Encoding"] is None
        assert headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=1000000-", 1000000, len(CONTENT)),
        ("bytes=5-5", 5, 6),
        ("bytes=2048-4095", 2048, 4096),
        ("bytes=3000000-99999999", 3000000, len(CONTENT)),
        ("bytes=-100", len(CONTENT) - 100, len(CONTENT)),
        ("bytes=0-", 0, len(CONTENT)),
    ],
)
def test_a_range_is_answered_with_exactly_its_bytes(
    site: Site, name: str, wanted: str, start: int, end: int
) -> None:
    path = site.link(site.storage.link(name))
    status, headers, body = site.get(path, wanted)
    assert status == 206
    assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    assert headers["Content-Length"] == str(end - start)
    assert body == CONTENT[start:end]


def test_a_range_behind_the_end_is_416_with_the_length(site: Site, name: str) -> None:
    path = site.link(site.storage.link(name))
    status, headers, _ = site.get(path, f"bytes={len(CONTENT)}-")
    assert status == 416
    assert headers["Content-Range"] == f"bytes */{len(CONTENT)}"


def test_head_and_conditional_requests(site: Site, name: str) -> None:
    path = site.link(site.storage.link(name))
    status, headers, body = site.request("HEAD", path)
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(CONTENT)))
    etag = headers["ETag"]
    status, _, body = site.request("GET", path, {"If-None-Match": etag})
    assert (status, body) == (304, b"")
    status, _, body = site.request("GET", path, {"Range": "bytes=7-", "If-Range": etag})
    assert (status, body) == (206, CONTENT[7:])
    status, _, body = site.request("GET", path, {"Range": "bytes=7-", "If-Range": '"other"'})
    assert (status, body) == (200, CONTENT)
    assert not [r for r in site.storage.requests if r.method == "HEAD"]


def test_storage_is_asked_with_nothing_of_the_device(site: Site, name: str) -> None:
    path = site.link(site.storage.link(name))
    site.request(
        "GET",
        path,
        {"Authorization": "Bearer x", "X-Men-Signature": "y", "Cookie": "z", "Accept": "a/b"},
    )
    [asked] = [r for r in site.storage.requests if name in r.path]
    assert asked.method == "GET"
    names = {field.lower() for field, _ in asked.headers}
    assert names == {"host", "user-agent", "accept-encoding"}
    assert asked.header("accept-encoding") == "identity"


def test_a_link_cannot_be_altered(site: Site, name: str) -> None:
    path = site.link(site.storage.link(name))
    other = site.link(site.storage.link(name + "-other"))
    query = path.split("?", 1)[1]
    fields = dict(part.split("=", 1) for part in query.split("&"))
    later = path.replace(f"se={fields['se']}", f"se={int(fields['se']) + 1}")
    swapped = f"{object_of(other)}?{query}"
    mixed = path.replace(f"sr={fields['sr']}", "sr=" + re.split("sr=|&sig", other)[1])
    for altered in (later, swapped, mixed):
        assert altered != path
        assert site.get(altered)[0] == 403
    for malformed in (object_of(path), path + "x", path + "&a=b", path.replace("sig=", "sg=")):
        assert site.get(malformed)[0] == 400
    assert site.request("POST", path)[0] == 405


def test_redirects_are_followed_here_and_only_to_whitelisted_hosts(site: Site, name: str) -> None:
    path = site.link(site.storage.link(name))
    site.storage.put(name + "-there", CONTENT)
    target = site.storage.link(name + "-there")
    rule = site.storage.script(f"GET /*/{name}", redirect("http://localhost:1/elsewhere"))
    status, _, body = site.get(path)
    assert (status, b"redirects" in body, rule.used) == (502, True, 1)
    site.storage.script(f"GET /*/{name}", redirect(target, 307))
    status, _, body = site.get(path)
    assert (status, body) == (200, CONTENT)


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        (without_length(), b"without Content-Length"),
        (without_length("chunked"), b"without Content-Length"),
        (with_header("Content-Encoding", "gzip"), b"content encoding"),
        (answer(403, body=b"<Error/>"), b"storage answered 403"),
    ],
    ids=["until-close", "chunked", "encoded", "forbidden"],
)
def test_what_cannot_be_passed_on_is_a_clear_502_and_heals(
    site: Site, name: str, behaviour: object, text: bytes
) -> None:
    path = site.link(site.storage.link(name))
    site.storage.script(f"GET /*/{name}", behaviour)  # type: ignore[arg-type]
    status, _, body = site.get(path)
    assert status == 502
    assert text in body
    status, _, body = site.get(path)
    assert (status, body) == (200, CONTENT)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_passing_troubles_of_storage_never_become_a_status(
    site: Site, name: str, status: int
) -> None:
    """Newer clients give a deployment up for a status, and try again for a broken connection."""
    path = site.link(site.storage.link(name))
    rule = site.storage.script(f"GET /*/{name}", answer(status))
    try:
        assert site.get(path)[2] == CONTENT  # the cache asked again by itself
    except (ConnectionError, IncompleteRead):
        site.gateway.wait_for_log(f"status=502 .*storage answered {status}")
    assert rule.used == 1
    answered, _, body = site.get(path, "bytes=7-2048")
    assert (answered, body) == (206, CONTENT[7:2049])


def test_a_bounded_range_costs_the_uplink_no_more(tmp_path: Path) -> None:
    with running_site(tmp_path, cache=False) as site:
        site.storage.put("a", CONTENT)
        path = site.link(site.storage.link("a"))
        for start in range(0, 20480, 2048):
            status, _, body = site.get(path, f"bytes={start}-{start + 2047}")
            assert (status, body) == (206, CONTENT[start : start + 2048])
        assert site.storage.usage("a").bytes == 20480
        connections = {request.connection for request in site.storage.requests}
        assert len(connections) == 1


def test_a_stored_object_that_cannot_be_read_is_fetched_anew(cached: Site) -> None:
    cached.storage.put("a", CONTENT)
    path = cached.link(cached.storage.link("a"))
    assert cached.get(path)[2] == CONTENT
    wait_for_commit(cached)
    [data] = (cached.folder / "cache" / "v1" / "objects").glob("*/data")
    os.truncate(data, 1_000_000)
    try:
        cached.get(path)
    except (ConnectionError, IncompleteRead):
        pass
    else:
        raise AssertionError("a truncated file was served as whole")
    assert cached.get(path, "bytes=1000000-")[2] == CONTENT[1_000_000:]
    assert cached.get(path)[2] == CONTENT


def test_a_missing_artifact_is_404(site: Site) -> None:
    path = site.link(site.storage.link("never-stored"))
    assert site.get(path)[0] == 404


def test_storage_that_ignores_ranges_still_gives_the_device_its_206(site: Site, name: str) -> None:
    path = site.link(site.storage.link(name))
    site.storage.script(f"GET /*/{name}", ignoring_range(), times=None)
    status, headers, body = site.get(path, "bytes=1000-")
    assert (status, body) == (206, CONTENT[1000:])
    assert headers["Content-Range"] == f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}"


def test_without_cache_a_broken_download_is_cut_and_the_device_resumes(tmp_path: Path) -> None:
    with running_site(tmp_path, cache=False) as site:
        site.storage.put("a", CONTENT)
        path = site.link(site.storage.link("a"))
        site.storage.script("GET /*/a", cut(1_000_000))
        connection = site.connect()
        connection.request("GET", path)
        response = connection.getresponse()
        with pytest.raises((IncompleteRead, ConnectionError)) as broken:
            response.read()
        connection.close()
        if isinstance(broken.value, IncompleteRead):
            assert CONTENT.startswith(broken.value.partial)
        status, _, body = site.get(path, "bytes=1000000-")
        assert (status, body) == (206, CONTENT[1_000_000:])


def test_an_artifact_that_never_gets_its_length_is_not_kept(cached: Site) -> None:
    cached.storage.put("a", CONTENT)
    path = cached.link(cached.storage.link("a"))
    cached.storage.script("GET /*/a", declared_length(len(CONTENT) + 1), times=None)
    connection = cached.connect()
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.read(len(CONTENT)) == CONTENT
    connection.close()
    assert not list((cached.folder / "cache" / "v1" / "objects").iterdir())


def test_any_number_of_devices_cause_one_download(cached: Site) -> None:
    cached.storage.put("a", CONTENT)
    gate = Gate()
    cached.storage.script("GET /*/a", stalled(1_500_000, gate))
    paths = [cached.link(cached.storage.link("a")) for _ in range(3)]
    offsets = [None, "bytes=0-", "bytes=700000-", "bytes=1499999-", "bytes=3000000-"]

    def device(number: int) -> bytes:
        status, _, body = cached.get(paths[number % 3], offsets[number % 5])
        assert status in (200, 206)
        return body

    def leaver(number: int) -> None:
        connection = cached.connect()
        connection.request("GET", paths[number % 3])
        response = connection.getresponse()
        response.read(100_000)
        connection.close()

    with ThreadPoolExecutor(30) as pool:
        bodies = [pool.submit(device, number) for number in range(20)]
        leavers = [pool.submit(leaver, number) for number in range(10)]
        gate.wait_reached(20)
        for left in leavers:
            left.result(30)
        gate.release()
        starts = [0, 0, 700_000, 1_499_999, 3_000_000]
        for number, body in enumerate(bodies):
            assert body.result(30) == CONTENT[starts[number % 5] :]
    usage = cached.storage.usage("a")
    assert (usage.gets, usage.bytes) == (1, len(CONTENT))
    assert cached.get(paths[0])[2] == CONTENT
    assert cached.storage.usage("a").gets == 1


def test_bytes_reach_a_device_before_storage_has_sent_the_rest(cached: Site) -> None:
    cached.storage.put("a", CONTENT)
    path = cached.link(cached.storage.link("a"))
    gate = Gate()
    cached.storage.script("GET /*/a", stalled(2_000_000, gate))
    first = cached.connect()
    first.request("GET", path)
    response = first.getresponse()
    assert response.read(1_900_000) == CONTENT[:1_900_000]
    gate.wait_reached(10)
    # A Range waits only for its own bytes; HEAD and conditions need none.
    status, _, body = cached.get(path, "bytes=1000000-1800000")
    assert (status, body) == (206, CONTENT[1_000_000:1_800_001])
    status, headers, _ = cached.request("HEAD", path)
    assert (status, headers["Content-Length"]) == (200, str(len(CONTENT)))
    assert cached.request("GET", path, {"If-None-Match": headers["ETag"]})[0] == 304
    gate.release()
    assert response.read() == CONTENT[1_900_000:]
    first.close()
    assert cached.storage.usage("a").gets == 1


def test_a_restarted_gateway_serves_from_its_directory_and_honours_its_links(cached: Site) -> None:
    cached.storage.put("a", CONTENT)
    path = cached.link(cached.storage.link("a"))
    assert cached.get(path)[2] == CONTENT
    wait_for_commit(cached)
    cached.restart()
    assert cached.get(path)[2] == CONTENT
    assert cached.get(path, "bytes=9-")[2] == CONTENT[9:]
    assert cached.storage.usage("a").gets == 1
    assert cached.metric("mender_gateway_cache_hits_total") == 2


def test_the_whitelist_counts_when_a_link_is_used(cached: Site) -> None:
    cached.storage.put("a", CONTENT)
    path = cached.link(cached.storage.link("a"))
    assert cached.get(path)[0] == 200
    cached.restart(DomainWhitelist=["other.example.com"])
    status, _, body = cached.get(path)
    assert (status, b"DomainWhitelist" in body) == (403, True)


def test_after_its_end_a_link_only_resumes(tmp_path: Path) -> None:
    expiring = {"LinkExpireDuration": "1s"}
    with running_site(tmp_path, cache=True, cached=expiring) as site:
        site.storage.put("a", CONTENT)
        path = site.link(site.storage.link("a"))
        deadline = time.monotonic() + 10
        while (answered := site.get(path)[0]) == 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert answered == 403
        assert site.get(path, "bytes=0-")[0] == 403
        assert site.get(path, "bytes=1-5,7-9")[0] == 403
        status, _, body = site.get(path, "bytes=1-")
        assert (status, body) == (206, CONTENT[1:])


def test_a_storage_break_is_mended_while_devices_wait(cached: Site) -> None:
    cached.storage.put("a", CONTENT)
    path = cached.link(cached.storage.link("a"))
    for after in (300_000, 500_000, 700_000):
        cached.storage.script("GET /*/a", cut(after, reset=after == 500_000))
    status, _, body = cached.get(path)
    assert (status, body == CONTENT) == (200, True)
    asked = [r.header("range") for r in cached.storage.requests]
    assert asked[0] is None
    assert len(asked) == 4
    assert all(wanted and wanted.startswith("bytes=") for wanted in asked[1:])


@pytest.mark.parametrize("damage", ["file in its place", "read-only", "removed while running"])
def test_an_unusable_cache_directory_is_no_reason_not_to_serve(tmp_path: Path, damage: str) -> None:
    with running_site(tmp_path, cache=True, start=False) as site:
        if damage == "file in its place":
            (tmp_path / "cache").write_text("not a directory")
        elif damage == "read-only":
            site.settings["ArtifactsCache"]["Path"] = "/proc/mender-gateway"
        site.start()
        site.storage.put("a", CONTENT)
        path = site.link(site.storage.link("a"))
        assert site.get(path)[2] == CONTENT
        if damage == "removed while running":
            wait_for_commit(site)
            os.rename(tmp_path / "cache", tmp_path / "gone")
        assert site.get(path)[2] == CONTENT
        assert site.get(path, "bytes=5-")[2] == CONTENT[5:]


def test_many_small_ranges_on_one_connection_are_right(cached: Site) -> None:
    content = CONTENT[: 256 * 1024]
    cached.storage.put("a", content)
    path = cached.link(cached.storage.link("a"))
    connection = cached.connect()
    got = b""
    for start in range(0, len(content), 2048):
        connection.request("GET", path, headers={"Range": f"bytes={start}-{start + 2047}"})
        response: HTTPResponse = connection.getresponse()
        assert response.status == 206
        assert response.headers["Content-Range"].endswith(f"/{len(content)}")
        got += response.read()
    connection.close()
    assert got == content
    assert cached.storage.usage("a").gets == 1


def test_a_device_that_stops_reading_disturbs_nobody(cached: Site) -> None:
    content = os.urandom(24 * 1024 * 1024)
    cached.storage.put("a", content)
    path = cached.link(cached.storage.link("a"))
    sleeper = cached.connect()
    sleeper.request("GET", path)
    first = sleeper.getresponse()
    done = threading.Barrier(4)

    def device() -> bytes:
        body = cached.get(path)[2]
        done.wait(30)
        return body

    with ThreadPoolExecutor(4) as pool:
        for body in [pool.submit(device) for _ in range(4)]:
            assert body.result(60) == content
    assert first.read() == content
    sleeper.close()
    assert cached.storage.usage("a").gets == 1


@pytest.mark.full
def test_a_device_that_leaves_a_stalled_download_is_let_go(cached: Site) -> None:
    cached.storage.put("a", CONTENT)
    path = cached.link(cached.storage.link("a"))
    gate = Gate()
    cached.storage.script("GET /*/a", stalled(100_000, gate))
    connection = cached.connect()
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.read(100_000) == CONTENT[:100_000]
    connection.close()
    response.close()
    cached.gateway.wait_for_log("answer was cut off.*the device is gone", timeout=30)
    gate.release()
    wait_for_commit(cached)
    assert cached.get(path)[2] == CONTENT
    assert cached.storage.usage("a").gets == 1


def wait_for_commit(site: Site) -> None:
    objects = site.folder / "cache" / "v1" / "objects"
    deadline = time.monotonic() + 15
    while not (objects.is_dir() and any(objects.iterdir())):
        assert time.monotonic() < deadline, site.gateway.log
        time.sleep(0.02)
