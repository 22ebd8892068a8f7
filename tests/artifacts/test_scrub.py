"""Stored artifacts that rot: found by the scrubber, and when a device reports a failure."""

import http.client
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.artifacts.site import Site, running_site

CONTENT = os.urandom(2 * 1024 * 1024 + 77)
STATUS = "/api/devices/v1/deployments/device/deployments/deployment-1/status"


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def objects(site: Site) -> list[Path]:
    return sorted((site.folder / "cache" / "v1" / "objects").iterdir())


def fetched(site: Site, name: str, content: bytes = CONTENT) -> str:
    """Puts an object into the store and the cache; its local link."""
    site.storage.put(name, content)
    path = site.link(site.storage.link(name))
    assert site.get(path)[2] == content
    until(lambda: site.metric("mender_gateway_cache_objects") > 0)
    return path


def rot(folder: Path) -> None:
    """Flips one bit of an object's data; its times stay."""
    data = folder / "data"
    times = data.stat()
    with data.open("r+b") as file:
        file.seek(times.st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
        os.fsync(file.fileno())
    os.utime(data, ns=(times.st_atime_ns, times.st_mtime_ns))


def report(site: Site, status: str, *, chunked: bool = True) -> tuple[int, bytes]:
    """Reports as a device does, chunked; the status, and the body that was sent."""
    body = json.dumps({"status": status, "substate": "x\u00e9"}, indent=1).encode()
    connection = site.connect()
    try:
        if chunked:
            pieces = iter([body[:7], body[7:]])
            connection.request("PUT", STATUS, pieces, encode_chunked=True)
        else:
            connection.request("PUT", STATUS, body)
        response: http.client.HTTPResponse = connection.getresponse()
        response.read()
        return response.status, body
    finally:
        connection.close()


def test_a_rotten_object_is_removed_counted_and_fetched_anew(tmp_path: Path) -> None:
    with running_site(tmp_path, cache=True, cached={"ScrubInterval": "200ms"}) as site:
        path = fetched(site, "a")
        fetched(site, "b", CONTENT[::-1])
        until(lambda: site.metric("mender_gateway_cache_scrubbed_objects_total") >= 2)
        assert site.metric("mender_gateway_cache_damaged_objects_total") == 0
        [folder] = [f for f in objects(site) if (f / "data").read_bytes() == CONTENT]
        rot(folder)
        until(lambda: site.metric("mender_gateway_cache_damaged_objects_total") == 1)
        until(lambda: not folder.exists())
        site.gateway.wait_for_log(rf"level=error .*damaged.*object={folder.name}")
        assert len(objects(site)) == 1
        assert site.get(path)[2] == CONTENT
        assert site.storage.usage("a").gets == 2


def test_without_an_interval_nothing_is_read_until_a_device_reports_a_failure(
    tmp_path: Path,
) -> None:
    with running_site(tmp_path, cache=True, cached={"ScrubInterval": "0"}) as site:
        path = fetched(site, "a")
        [folder] = objects(site)
        rot(folder)
        assert report(site, "downloading")[0] == 204
        assert report(site, "success")[0] == 204
        assert site.metric("mender_gateway_cache_scrubbed_objects_total") == 0
        assert report(site, "failure")[0] == 204
        until(lambda: not folder.exists())
        assert site.metric("mender_gateway_cache_damaged_objects_total") == 1
        assert site.get(path)[2] == CONTENT


def test_many_reports_of_one_failure_cost_one_reading(tmp_path: Path) -> None:
    with running_site(tmp_path, cache=True) as site:
        fetched(site, "a")
        for _ in range(20):
            assert report(site, "failure")[0] == 204
        until(lambda: site.metric("mender_gateway_cache_scrubbed_objects_total") > 0)
        assert report(site, "failure")[0] == 204
        assert site.metric("mender_gateway_cache_scrubbed_objects_total") == 1
        assert site.metric("mender_gateway_cache_damaged_objects_total") == 0


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("status", ["failure", "success", "installing"])
def test_reports_reach_the_server_byte_for_byte(tmp_path: Path, chunked: bool, status: str) -> None:
    with running_site(tmp_path, cache=True) as site:
        fetched(site, "a")
        answered, body = report(site, status, chunked=chunked)
        assert answered == 204
        assert site.reports == [body]


def test_a_report_that_the_server_refuses_makes_no_suspect(tmp_path: Path) -> None:
    with running_site(tmp_path, cache=True, cached={"ScrubInterval": "0"}) as site:
        fetched(site, "a")
        [folder] = objects(site)
        rot(folder)
        site.offered["report"] = 401
        assert report(site, "failure")[0] == 401
        site.offered["report"] = 204
        assert report(site, "success")[0] == 204
        assert folder.exists()
        assert site.metric("mender_gateway_cache_scrubbed_objects_total") == 0


def test_one_of_two_gateways_on_one_directory_scrubs_at_a_time(tmp_path: Path) -> None:
    """The other finds everything checked, whatever it would have liked to check itself."""
    cache = {"Path": str(tmp_path / "shared"), "ScrubInterval": "1h"}
    with running_site(tmp_path / "one", cache=True, cached=cache) as one:
        one.storage.put("a", CONTENT)
        assert one.get(one.link(one.storage.link("a")))[2] == CONTENT
        shared = tmp_path / "shared" / "v1" / "objects"
        until(lambda: shared.exists() and len(list(shared.iterdir())) == 1)
        [folder] = shared.iterdir()
        old = time.time() - 7200
        os.utime(folder / "meta", (old, old))
        with running_site(tmp_path / "two", cache=True, cached=cache) as two:
            one.restart()
            until(
                lambda: (
                    one.metric("mender_gateway_cache_scrubbed_objects_total")
                    + two.metric("mender_gateway_cache_scrubbed_objects_total")
                    > 0
                )
            )
            assert (folder / "meta").stat().st_mtime > old + 3600
            total = one.metric("mender_gateway_cache_scrubbed_objects_total") + two.metric(
                "mender_gateway_cache_scrubbed_objects_total"
            )
            assert total == 1


def test_the_scrubber_leaves_disk_and_processor_to_all_others(tmp_path: Path) -> None:
    if shutil.which("ionice") is None:
        pytest.skip("needs ionice")
    with running_site(tmp_path, cache=True) as site:
        tasks = Path(f"/proc/{site.gateway.process.pid}/task")

        def nice(task: Path) -> str:
            return (task / "stat").read_text().rpartition(")")[2].split()[16]

        until(lambda: any(nice(task) == "19" for task in tasks.iterdir()))
        [scrubber] = [task for task in tasks.iterdir() if nice(task) == "19"]

        def io_class() -> str:
            asked = ["ionice", "-p", scrubber.name]
            return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

        until(lambda: io_class() == "idle")


def test_the_scrubber_ends_with_the_gateway(tmp_path: Path) -> None:
    with running_site(tmp_path, cache=True, cached={"ScrubInterval": "100ms"}) as site:
        fetched(site, "a")
        until(lambda: site.metric("mender_gateway_cache_scrubbed_objects_total") > 0)
        begun = time.monotonic()
        assert site.gateway.stop() == 0
        assert time.monotonic() - begun < 10
        assert not re.search("level=error", site.gateway.log)
