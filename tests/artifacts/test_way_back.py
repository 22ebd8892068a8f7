"""What streams past the cache comes back to it, so that a trouble does not outlast its cause."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mender_gateway.demo.faults import Gate, slow, stalled
from tests.artifacts.site import Site, running_site

CONTENT = os.urandom(8 * 1024 * 1024)
_SLOWLY = 4e6
"""Bits per second: a quarter of a minute for the artifact."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A gateway whose cache cannot be used: there is a file where its directory should be."""
    with running_site(tmp_path, cache=True, start=False) as site:
        (tmp_path / "cache").write_text("not a directory")
        site.start()
        site.storage.put("a", CONTENT)
        yield site


def mend(site: Site) -> None:
    """The directory can be made again, and the gateway has been told to look."""
    (site.folder / "cache").unlink()
    status = site.request("GET", "/api/internal/v1/gateway/health")[0]
    assert status == 204 or site.metric("mender_gateway_cache_usable") == 1


def test_downloads_past_the_cache_end_when_it_has_the_object(site: Site) -> None:
    path = site.link(site.storage.link("a"))
    site.storage.script("GET /*/a", slow(_SLOWLY), times=3)
    with ThreadPoolExecutor(3) as devices:
        around = [devices.submit(site.get, path, wanted) for wanted in (None, None, "bytes=7-")]
        site.storage.wait_for(lambda: site.storage.usage("a").gets == 3)
        mend(site)
        assert site.get(path)[2] == CONTENT
        bodies = [device.result(60)[2] for device in around]
    assert bodies == [CONTENT, CONTENT, CONTENT[7:]]
    assert site.storage.usage("a").gets == 4
    first = site.storage.requests[:3]
    site.storage.wait_for(lambda: all(asked.done for asked in first))
    assert not any(asked.complete for asked in first), "they were fetched to their end"


def test_nobody_is_sent_to_a_fill_that_stands_still(site: Site) -> None:
    path = site.link(site.storage.link("a"))
    gate = Gate()
    site.storage.script("GET /*/a", slow(16e6))  # some looks long
    site.storage.script("GET /*/a", stalled(len(CONTENT) - 1, gate))
    with ThreadPoolExecutor(2) as devices:
        around = devices.submit(site.get, path)
        site.storage.wait_for(lambda: site.storage.usage("a").gets == 1)
        mend(site)
        through = devices.submit(site.get, path)
        gate.wait_reached(20)
        assert around.result(60)[2] == CONTENT
        assert site.storage.requests[0].complete
        gate.release()
        assert through.result(60)[2] == CONTENT


def test_another_version_of_the_object_is_no_way_back(site: Site) -> None:
    path = site.link(site.storage.link("a"))
    site.storage.script("GET /*/a", slow(16e6))
    with ThreadPoolExecutor(1) as devices:
        around = devices.submit(site.get, path)
        site.storage.wait_for(lambda: site.storage.usage("a").gets == 1)
        other = CONTENT[::-1]
        site.storage.put("a", other)
        mend(site)
        assert site.get(path)[2] == other
        assert around.result(60)[2] == CONTENT
