"""The main job with real devices: one deployment, two devices, one crossing of the uplink."""

from pathlib import Path

import pytest

from tests.e2e.site import SYSTEM_ID, running_site

pytestmark = pytest.mark.device


@pytest.mark.parametrize("scheme", ["https", pytest.param("http", marks=pytest.mark.full)])
def test_two_devices_update_and_storage_is_asked_once(tmp_path: Path, scheme: str) -> None:
    with running_site(tmp_path, tls=scheme == "https") as site:
        first, second = site.device("first"), site.device("second")
        release = site.release("release-1", megabytes=20)
        site.wait_polling(first, second)
        deployment = site.deploy(release, first, second)
        site.assert_updated(deployment, release, first, second)

        usage = site.cloud.storage.usage(release.object)
        assert (usage.gets, usage.bytes) == (1, release.size)
        downloads = site.access_log("artifact")
        assert [(d.status, d.bytes) for d in downloads] == [(200, release.size)] * 2
        for device in (first, second):
            inventory = site.cloud.upstream.inventory_of(device.identity)
            assert inventory["mender_gateway_system_id"] == SYSTEM_ID
            assert inventory["hostname"] == device.name
            assert inventory["device_type"] == "test-board"


@pytest.mark.full
def test_without_a_cache_every_device_gets_the_artifact_from_storage(tmp_path: Path) -> None:
    with running_site(tmp_path, tls=True, cache=False) as site:
        first, second = site.device("first"), site.device("second")
        release = site.release("release-1", megabytes=20)
        site.wait_polling(first, second)
        deployment = site.deploy(release, first, second)
        site.assert_updated(deployment, release, first, second)
        usage = site.cloud.storage.usage(release.object)
        assert (usage.gets, usage.bytes) == (2, 2 * release.size)
