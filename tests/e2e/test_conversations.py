"""What else the real client says to its server, and what must come back through the gateway."""

from pathlib import Path

import pytest

from tests.e2e.site import NEXT_V1, NEXT_V2, STATUS, UPDATED, running_site

pytestmark = [pytest.mark.device, pytest.mark.full]


@pytest.mark.parametrize(
    ("state", "before"), [("ArtifactInstall", UPDATED[:4]), ("ArtifactCommit", UPDATED[:5])]
)
def test_a_failing_update_module_is_reported_with_its_log(
    tmp_path: Path, state: str, before: list[str]
) -> None:
    with running_site(tmp_path) as site:
        device = site.device("device")
        device.fail_in(state)
        release = site.release("release-1", megabytes=2)
        site.wait_polling(device)
        deployment = site.deploy(release, device)
        site.wait_outcome(deployment, device, status="failure")
        log = site.cloud.upstream.log_of
        site.wait(lambda: log(deployment, device.identity), "log of the failure")
        assert f"fails in {state} as ordered" in str(log(deployment, device.identity))
        site.wait_next_poll(device)
        assert site.statuses(deployment, device) == [*before, "failure"]
        assert device.artifact() == "release-0"


def test_a_refused_token_leads_to_reauthentication(tmp_path: Path) -> None:
    with running_site(tmp_path, tls=True) as site:
        site.expect(r"status=401")
        device = site.device("device")
        release = site.release("release-1", megabytes=2)
        site.wait_polling(device)
        upstream = site.cloud.upstream
        known = len(upstream.requests_to("POST */auth_requests"))
        site.cloud.upstream.revoke_tokens(device.identity)
        site.wait(
            lambda: len(upstream.requests_to("POST */auth_requests")) > known,
            "new authentication",
        )
        site.wait_next_poll(device)
        refused = [r.path for r in upstream.requests if r.status == 401]
        assert len(refused) == 1
        deployment = site.deploy(release, device)
        site.assert_updated(deployment, release, device)


def test_a_pending_device_waits_until_it_is_accepted(tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        site.expect(r"path=\S+/auth_requests status=401")
        site.cloud.upstream.devauth.accept_all = False
        device = site.device("device")
        upstream = site.cloud.upstream
        site.wait(lambda: upstream.device(device.identity), "pending device")
        refusals = "POST */auth_requests"
        site.wait(lambda: len(upstream.requests_to(refusals)) > 1, "second attempt")
        assert {r.status for r in upstream.requests if r.done} == {401}
        upstream.set_status(device.identity, "accepted")
        site.wait_polling(device)


def test_an_update_with_a_reboot(tmp_path: Path) -> None:
    with running_site(tmp_path, tls=True) as site:
        device = site.device("device")
        device.reboot_when_asked()
        release = site.release("release-1", megabytes=2)
        site.wait_polling(device)
        deployment = site.deploy(release, device)
        device.wait_for_reboot(60)
        device.start()
        site.wait_outcome(deployment, device)
        site.wait_settled(device, artifact="release-1")
        rebooted = [*UPDATED[:4], "rebooting", *UPDATED[4:]]
        assert site.statuses(deployment, device) == rebooted
        assert device.installed == {"payload.bin": release.payload}


def test_a_server_without_api_v2_is_polled_by_v1(tmp_path: Path) -> None:
    with running_site(tmp_path, api_v2=False) as site:
        site.expect(r"path=\S+/v2/deployments/device/deployments/next status=404")
        device = site.device("device")
        release = site.release("release-1", megabytes=2)
        site.wait_polling(device)
        site.assert_updated(site.deploy(release, device), release, device)
        asked, fallback = site.requests_of(device, NEXT_V2), site.requests_of(device, NEXT_V1)
        assert asked
        assert {r.status for r in asked} == {404}
        assert {r.method for r in fallback} == {"POST"}
        assert {r.status for r in fallback} == {200, 204}
        assert site.cloud.storage.usage(release.object).gets == 1


def test_a_deployment_waits_where_the_update_control_map_says(tmp_path: Path) -> None:
    """Enterprise servers pause deployments; the client asks for the map while it waits."""
    paused = {"priority": 0, "states": {"ArtifactInstall_Enter": {"action": "pause"}}}
    free = {"priority": 0, "states": {"ArtifactInstall_Enter": {"action": "continue"}}}
    with running_site(tmp_path) as site:
        device = site.device("device")
        release = site.release("release-1", megabytes=2)
        site.wait_polling(device)
        upstream = site.cloud.upstream
        deployment = upstream.deploy(release.name, [device.identity], paused)
        site.wait_outcome(deployment, device, status="pause_before_installing")
        asked = "GET */update_control_map"
        site.wait(lambda: site.requests_of(device, asked), "question for the map")
        assert device.installed == {}
        upstream.deployment(deployment).control_map = free
        site.wait_outcome(deployment, device)
        assert device.installed == {"payload.bin": release.payload}
        assert {r.status for r in site.requests_of(device, asked)} == {200}


@pytest.mark.parametrize("tls", [True, False], ids=["https", "http"])
def test_a_configuration_is_deployed_through_the_gateway(tmp_path: Path, tls: bool) -> None:
    """Its artifact has no payload and lies on the server's own host, under a signed path."""
    settings = {"timezone": "Europe/Oslo", "motd": "hello"}
    with running_site(tmp_path, tls=tls) as site:
        device = site.device("device")
        site.wait_polling(device)
        upstream = site.cloud.upstream
        deployment = upstream.configure(device.identity, settings)
        site.wait_outcome(deployment, device)
        assert device.meta_data == settings
        downloads = upstream.requests_to("GET */deployments/download/configuration/*")
        assert [r.status for r in downloads] == [200]
        assert site.cloud.storage.requests == []
        forwarded = [r for r in site.access_log() if "/download/configuration/" in r.path]
        assert [(r.method, r.status) for r in forwarded] == [("GET", 200)]


def test_requests_with_a_body_come_chunked_and_arrive_whole(tmp_path: Path) -> None:
    """The client frames its bodies in chunks; statuses are the shortest and lose nothing."""
    with running_site(tmp_path) as site:
        device = site.device("device")
        release = site.release("release-1", megabytes=2)
        site.wait_polling(device)
        site.assert_updated(site.deploy(release, device), release, device)
        statuses = site.cloud.upstream.requests_to(STATUS)
        assert [r.body for r in statuses] == [b'{"status":"%b"}\n' % s.encode() for s in UPDATED]
        assert all(r.body_complete for r in site.cloud.upstream.requests)
