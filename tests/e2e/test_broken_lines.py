"""Lines and machines fail during a download; the real client, which is patient but strict, wins.

A download that breaks off at the client is resumed a minute later, and only by a 206 that fits.
"""

import signal
from pathlib import Path

import pytest

from mender_gateway.cache.layout import CHUNK
from mender_gateway.demo.faults import cut
from tests.e2e.line import device_line
from tests.e2e.site import MEGABYTE, running_site
from tests.support.device import Device

pytestmark = [pytest.mark.device, pytest.mark.full]

_RESUMED = "Resuming download"
_ON_ITS_WAY = 2 * MEGABYTE
"""What storage had sent and the gateway had not written when it died."""
_BACK_OFF = 150.0
"""Seconds for a download that broke off once: the client waits a minute."""


def _was_interrupted(device: Device) -> bool:
    return _RESUMED in device.log


def test_an_uplink_cut_three_times_is_one_download_for_the_device(tmp_path: Path) -> None:
    with running_site(tmp_path, tls=True, uplink=40e6) as site:
        site.expect(r"cache: fill broke")
        device = site.device("device")
        release = site.release("release-1", megabytes=20)
        site.wait_polling(device)
        for reset in (False, True, False):
            site.cloud.storage.script("GET *", cut(5 * MEGABYTE, reset=reset))
        deployment = site.deploy(release, device)
        site.assert_updated(deployment, release, device)

        assert not _was_interrupted(device)
        downloads = site.access_log("artifact")
        assert [(d.status, d.bytes) for d in downloads] == [(200, release.size)]
        fetched = site.cloud.storage.requests
        assert [r.status for r in fetched] == [200, 206, 206, 206]
        assert sum(r.sent for r in fetched) < 1.05 * release.size


def test_a_killed_gateway_comes_back_and_the_download_is_resumed(tmp_path: Path) -> None:
    """The local link ends before the device asks again: resumption is served all the same."""
    short = {"ArtifactsCache": {"LinkExpireDuration": "20s"}}
    with running_site(tmp_path, uplink=24e6, proxy=short) as site:
        device = site.device("device")
        release = site.release("release-1", megabytes=20)
        site.wait_polling(device)
        deployment = site.deploy(release, device)
        storage = site.cloud.storage
        site.wait(lambda: sum(r.sent for r in storage.requests) > 8 * MEGABYTE, "half a download")
        site.gateway.stop(signal.SIGKILL)
        site.start_gateway()
        device.wait_for_log(_RESUMED, 30)
        site.assert_updated(deployment, release, device, timeout=_BACK_OFF)

        assert [d.status for d in site.access_log("artifact")] == [206]
        first, second = storage.requests
        assert (first.status, second.status) == (200, 206)
        wanted = second.header("range") or ""
        kept = int(wanted.removeprefix("bytes=").removesuffix("-"))
        assert kept > 0
        assert kept % CHUNK == 0
        assert second.sent == release.size - kept
        assert first.sent - kept < CHUNK + _ON_ITS_WAY


def test_a_gateway_that_is_restarted_finishes_the_download_first(tmp_path: Path) -> None:
    with running_site(tmp_path, tls=True, uplink=24e6) as site:
        device = site.device("device")
        release = site.release("release-1", megabytes=20)
        site.wait_polling(device)
        deployment = site.deploy(release, device)
        storage = site.cloud.storage
        site.wait(lambda: sum(r.sent for r in storage.requests) > 8 * MEGABYTE, "half a download")
        assert site.gateway.stop(signal.SIGTERM) == 0
        site.start_gateway()
        site.wait_outcome(deployment, device)
        assert not _was_interrupted(device)
        downloads = site.access_log("artifact")
        assert [(d.status, d.bytes) for d in downloads] == [(200, release.size)]
        assert storage.usage(release.object).gets == 1
        assert device.installed == {"payload.bin": release.payload}


def test_a_device_resumes_by_links_that_have_ended_meanwhile(tmp_path: Path) -> None:
    """One device's line breaks. When it asks again its own link and storage's have ended, and the
    gateway has the artifact, because the fill went on; the other device notices nothing."""
    short = {"ArtifactsCache": {"LinkExpireDuration": "20s"}}
    with device_line() as line:
        url = f"https://127.0.0.1:{line.port}"
        with running_site(tmp_path, tls=True, link_life=20, proxy=short, url=url) as site:
            site.expect(r"answer was cut off")
            line.target = int(site.own_url.rpartition(":")[2])
            devices = site.device("first"), site.device("second")
            release = site.release("release-1", megabytes=20)
            site.wait_polling(*devices)
            line.cut_after(7 * MEGABYTE)
            deployment = site.deploy(release, *devices)
            site.assert_updated(deployment, release, *devices, timeout=_BACK_OFF)

            assert line.cuts == 1
            assert [_was_interrupted(device) for device in devices].count(True) == 1
            downloads = site.access_log("artifact")
            assert sorted(d.status for d in downloads) == [200, 200, 206]
            usage = site.cloud.storage.usage(release.object)
            assert (usage.gets, usage.bytes) == (1, release.size)
