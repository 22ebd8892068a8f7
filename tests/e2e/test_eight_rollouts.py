"""The rollouts that Mender's own integration tests of its gateway name, with real clients."""

from functools import partial
from pathlib import Path

import pytest

from mender_gateway.demo.faults import Gate, stalled
from tests.e2e.site import MEGABYTE, Release, Site, running_site
from tests.support.device import Device

pytestmark = [pytest.mark.device, pytest.mark.full]


def _fetched_once(site: Site, *releases: Release) -> None:
    for release in releases:
        usage = site.cloud.storage.usage(release.object)
        assert (usage.gets, usage.bytes) == (1, release.size)


def _has_begun(site: Site, deployment: str, device: Device) -> bool:
    """Whether the device has the head of its download: its second report."""
    return site.statuses(deployment, device) == ["downloading"] * 2


def test_one_device(tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        device = site.device("device")
        release = site.release("release-1")
        site.wait_polling(device)
        site.assert_updated(site.deploy(release, device), release, device)
        _fetched_once(site, release)


def test_two_devices_both_updated(tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        devices = site.device("first"), site.device("second")
        release = site.release("release-1")
        site.wait_polling(*devices)
        site.assert_updated(site.deploy(release, *devices), release, *devices)
        _fetched_once(site, release)


def test_two_devices_one_updated(tmp_path: Path) -> None:
    with running_site(tmp_path, tls=True) as site:
        chosen, other = site.device("chosen"), site.device("other")
        release = site.release("release-1")
        site.wait_polling(chosen, other)
        site.assert_updated(site.deploy(release, chosen), release, chosen)
        site.wait_next_poll(other)
        assert other.installed == {}
        assert other.artifact() == "release-0"
        _fetched_once(site, release)


def test_two_parallel_deployments(tmp_path: Path) -> None:
    with running_site(tmp_path, tls=True) as site:
        first, second = site.device("first"), site.device("second")
        one, two = site.release("release-1"), site.release("release-2")
        site.wait_polling(first, second)
        deployments = site.deploy(one, first), site.deploy(two, second)
        site.assert_updated(deployments[0], one, first)
        site.assert_updated(deployments[1], two, second)
        _fetched_once(site, one, two)


def test_one_of_two_fails(tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        good, bad = site.device("good"), site.device("bad")
        bad.fail_in("ArtifactInstall")
        release = site.release("release-1")
        site.wait_polling(good, bad)
        deployment = site.deploy(release, good, bad)
        site.assert_updated(deployment, release, good)
        site.wait_outcome(deployment, bad, status="failure")
        assert bad.artifact() == "release-0"
        _fetched_once(site, release)


def test_one_of_two_is_aborted(tmp_path: Path) -> None:
    """Two deployments of one release; one ends at the server while its device downloads."""
    gate = Gate()
    with running_site(tmp_path, tls=True) as site:
        site.expect(r"path=\S+/status status=409")
        kept, aborted = site.device("kept"), site.device("aborted")
        release = site.release("release-1")
        site.wait_polling(kept, aborted)
        site.cloud.storage.script("GET *", stalled(5 * MEGABYTE, gate))
        deployments = site.deploy(release, kept), site.deploy(release, aborted)
        for deployment, device in zip(deployments, (kept, aborted), strict=True):
            begun = partial(_has_begun, site, deployment, device)
            site.wait(begun, f"download on {device.name}")
        site.cloud.upstream.abort(deployments[1])
        gate.release()
        site.assert_updated(deployments[0], release, kept)
        site.wait(
            lambda: 409 in [r.status for r in site.requests_of(aborted, "PUT */status")],
            "refused status",
        )
        site.wait_next_poll(aborted)
        assert site.outcome(deployments[1], aborted) == "aborted"
        assert aborted.artifact() == "release-0"
        _fetched_once(site, release)


def test_one_deployment_in_parallel_with_two_successive_ones(tmp_path: Path) -> None:
    gate = Gate()
    with running_site(tmp_path) as site:
        slow, quick = site.device("slow"), site.device("quick")
        long, one, two = (site.release(f"release-{number}") for number in (1, 2, 3))
        site.wait_polling(slow, quick)
        site.cloud.storage.script(f"GET */{long.object}", stalled(5 * MEGABYTE, gate))
        parallel = site.deploy(long, slow)
        for release in (one, two):
            site.assert_updated(site.deploy(release, quick), release, quick)
        assert site.outcome(parallel, slow) == "downloading"
        gate.release()
        site.assert_updated(parallel, long, slow)
        _fetched_once(site, long, one, two)


def test_the_gateway_hosts_own_client_updates_at_the_same_time(tmp_path: Path) -> None:
    script = tmp_path / "mender-inventory-mender-gateway"
    script.write_text("#!/bin/sh\necho mender_is_gateway=true\n")
    script.chmod(0o755)
    with running_site(tmp_path, tls=True) as site:
        own = site.prepare("gateway-host", device_type="test-gateway")
        own.add_inventory_script(script)
        own.start()
        devices = site.device("first"), site.device("second")
        release = site.release("release-1")
        for_host = site.release("release-1", device_type="test-gateway")
        site.wait_polling(own, *devices)
        deployment = site.deploy("release-1", own, *devices)
        site.assert_updated(deployment, for_host, own)
        site.assert_updated(deployment, release, *devices)
        inventory = site.cloud.upstream.inventory_of(own.identity)
        assert inventory["mender_is_gateway"] == "true"
        _fetched_once(site, release, for_host)
