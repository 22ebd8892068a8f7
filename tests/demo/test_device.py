"""The simulated device behaves as the real client was seen to: order, shape, retries."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mender_gateway.demo import faults
from mender_gateway.demo.answers import Answer
from mender_gateway.demo.artifact import ArtifactFile
from mender_gateway.demo.cloud import Cloud, CloudSettings, running
from mender_gateway.demo.device import DeviceReport, DeviceSettings, SimulatedDevice
from mender_gateway.demo.download import DownloadRules
from mender_gateway.demo.exchanges import Exchange
from tests.demo.asking import make_artifact

MAC = {"mac": "02:00:00:00:00:01"}
QUICK = DownloadRules(wait=0.01)
AUTH = "/api/devices/v1/authentication/auth_requests"
INVENTORY = "/api/devices/v1/inventory/device/attributes"
NEXT_V1 = "/api/devices/v1/deployments/device/deployments/next"
NEXT_V2 = "/api/devices/v2/deployments/device/deployments/next"
SUCCESS = ["downloading", "downloading", "downloading", "installing", "installing", "success"]


def settings(cloud: Cloud, **changes: Any) -> DeviceSettings:
    quick = DeviceSettings(
        server=cloud.upstream.base, identity=MAC, retry=0.01, poll=0.01, download=QUICK
    )
    return replace(quick, **changes)


def update(cloud: Cloud, artifact: ArtifactFile, **changes: Any) -> tuple[str, DeviceReport]:
    """A device's update to `artifact`, which is deployed to it; the deployment and the report."""

    async def main() -> tuple[str, DeviceReport]:
        async with SimulatedDevice(settings(cloud, **changes)) as device:
            await device.start()
            await asyncio.to_thread(cloud.upstream.add_artifact, artifact.path)
            deployment = cloud.upstream.deploy(artifact.name, [MAC])
            return deployment, await device.update(20)

    return asyncio.run(main())


def calls(cloud: Cloud) -> list[str]:
    return [f"{e.method} {e.path.rpartition('/')[2]}" for e in cloud.upstream.requests]


def names(exchange: Exchange) -> list[str]:
    return [name for name, _ in exchange.headers]


def test_an_update_has_the_real_clients_order(cloud: Cloud, artifact: ArtifactFile) -> None:
    deployment, report = update(cloud, artifact, expected_sha256=artifact.sha256)
    assert (report.result, report.errors) == ("success", [])
    assert (report.size, report.sha256) == (artifact.size, artifact.sha256)
    assert cloud.upstream.statuses(deployment, MAC) == SUCCESS
    start = ["POST auth_requests", "PUT attributes"]
    status = "PUT status"
    assert calls(cloud) == [
        *start,
        *start,
        "POST next",  # v2, which this server does not have
        "POST next",
        *[status] * 4,
        "POST auth_requests",
        *[status] * 2,
        "PUT attributes",
    ]
    assert [e.path for e in cloud.upstream.requests_to("POST */next")] == [NEXT_V2, NEXT_V1]
    assert cloud.upstream.inventory_of(MAC)["artifact_name"] == artifact.name
    assert len({e.connection for e in cloud.upstream.requests}) == 1


def test_requests_have_the_real_clients_shape(cloud: Cloud, artifact: ArtifactFile) -> None:
    update(cloud, artifact)
    auth = cloud.upstream.requests_to(f"POST {AUTH}")[0]
    assert names(auth) == [
        *("Host", "User-Agent", "Content-Length", "Authorization", "Content-Type"),
        *("X-Men-Signature", "Accept-Encoding"),
    ]
    assert auth.header("authorization") == "Bearer"
    assert auth.body.endswith(b"\n")
    assert list(json.loads(auth.body)) == ["id_data", "tenant_token", "pubkey"]
    inventory = cloud.upstream.requests_to(f"PUT {INVENTORY}")[0]
    assert names(inventory) == [
        *("Host", "User-Agent", "Transfer-Encoding", "Accept-Encoding", "Authorization"),
        "Content-Type",
    ]
    [download] = cloud.storage.requests
    assert names(download) == ["Host", "User-Agent", "Accept-Encoding"]


def test_a_cut_download_is_resumed_on_the_same_link(cloud: Cloud, artifact: ArtifactFile) -> None:
    cloud.storage.script("GET *", faults.cut(100_000))
    cloud.storage.script("GET *", faults.cut(50_000, reset=True))
    _, report = update(cloud, artifact, expected_sha256=artifact.sha256)
    assert (report.result, report.attempts) == ("success", 3)
    first, second, third = cloud.storage.requests
    assert first.target == second.target == third.target
    assert names(second) == ["Host", "User-Agent", "Range"]
    assert second.header("range") == "bytes=100000-"
    # A reset may take back bytes that were on their way.
    assert third.header("range") is not None
    assert report.size == artifact.size


def test_newer_clients_name_the_end_of_a_range(cloud: Cloud, artifact: ArtifactFile) -> None:
    cloud.storage.script("GET *", faults.cut(100_000))
    rules = DownloadRules(wait=0.01, closed_ranges=True)
    _, report = update(cloud, artifact, download=rules)
    assert report.result == "success"
    assert cloud.storage.requests[1].header("range") == f"bytes=100000-{artifact.size - 1}"


@pytest.mark.parametrize(
    "behaviour",
    [
        faults.answer(403),
        faults.answer(503, [("Retry-After", "60")]),
        faults.without_length("chunked"),
        faults.without_length("close"),
        faults.with_header("Content-Encoding", "gzip"),
        faults.dropped(),
    ],
)
def test_a_useless_first_answer_is_tried_four_times(
    cloud: Cloud, artifact: ArtifactFile, behaviour: faults.Behaviour
) -> None:
    cloud.storage.script("GET *", behaviour, times=None)
    deployment, report = update(cloud, artifact)
    assert (report.result, report.attempts) == ("failure", 4)
    assert len({e.target for e in cloud.storage.requests}) == 1
    # Before each attempt it says once more what it is doing.
    assert cloud.upstream.statuses(deployment, MAC) == ["downloading"] * 4 + ["failure"]
    assert cloud.upstream.log_of(deployment, MAC) is not None


@pytest.mark.parametrize(
    "behaviour",
    [
        faults.ignoring_range(),
        faults.answer(403),
        faults.with_header("Content-Range", "bytes 100000-299999/*"),
        faults.with_header("Content-Range", "bytes 100001-299999/300000"),
        faults.with_header("Content-Range", "bytes 100000-299999/999999"),
    ],
)
def test_a_resume_needs_a_206_that_fits(
    cloud: Cloud, artifact: ArtifactFile, behaviour: faults.Behaviour
) -> None:
    cloud.storage.script("GET *", faults.cut(100_000))
    cloud.storage.script("GET *", behaviour, times=None)
    _, report = update(cloud, artifact)
    assert (report.result, report.size) == ("failure", 100_000)


def test_a_redirect_is_followed(cloud: Cloud, artifact: ArtifactFile) -> None:
    link = f"{cloud.storage.base}/elsewhere"
    rule = cloud.storage.script("GET /mender/*", faults.redirect(link))
    cloud.storage.script("GET /elsewhere", faults.answer(404))
    _, report = update(cloud, artifact)
    assert (report.result, report.attempts, rule.used) == ("success", 2, 1)


def test_wrong_bytes_are_a_failure_with_a_log(
    cloud: Cloud, artifact: ArtifactFile, tmp_path: Path
) -> None:
    other = make_artifact(tmp_path, "other", 300_000, seed=1)
    deployment, report = update(cloud, artifact, expected_sha256=other.sha256)
    assert report.result == "failure"
    assert cloud.upstream.statuses(deployment, MAC) == ["downloading", "downloading", "failure"]
    assert "invalid checksum" in (cloud.upstream.log_of(deployment, MAC) or "")


def test_a_failing_module_is_a_failure_with_a_log(cloud: Cloud, artifact: ArtifactFile) -> None:
    deployment, report = update(cloud, artifact, fail_install=True)
    assert report.result == "failure"
    statuses = ["downloading", "downloading", "downloading", "installing", "failure"]
    assert cloud.upstream.statuses(deployment, MAC) == statuses
    assert "ArtifactInstall" in (cloud.upstream.log_of(deployment, MAC) or "")
    assert cloud.upstream.inventory_of(MAC)["artifact_name"] == "release-0"


def test_an_aborted_deployment_ends_at_the_next_status(
    cloud: Cloud, artifact: ArtifactFile
) -> None:
    deployed: list[str] = []

    def abort(answer: Answer) -> Answer:
        deployed.extend(cloud.upstream.deployments.deployments)
        cloud.upstream.abort(deployed[0])
        return answer

    cloud.upstream.script(f"POST {NEXT_V1}", faults.changed(abort))
    deployment, report = update(cloud, artifact)
    assert report.result == "aborted"
    assert cloud.upstream.statuses(deployment, MAC) == []
    assert not cloud.storage.requests
    assert calls(cloud)[-3:] == ["PUT status", "PUT status", "PUT attributes"]


def test_a_401_leads_to_a_new_token_and_the_same_call_again(
    cloud: Cloud, artifact: ArtifactFile
) -> None:
    cloud.upstream.script(f"POST {NEXT_V1}", faults.answer(401))
    _, report = update(cloud, artifact)
    assert report.result == "success"
    start = calls(cloud).index("POST next") + 1
    wanted = ["POST next", "POST auth_requests", "POST next"]
    assert calls(cloud)[start : start + 3] == wanted


def test_the_report_before_the_commit_is_tried_four_times(
    cloud: Cloud, artifact: ArtifactFile
) -> None:
    seen: list[Exchange] = []

    def after_download(exchange: Exchange) -> bool:
        """The second status behind the four of download and installation."""
        if exchange.matches("PUT */status"):
            seen.append(exchange)
        return exchange.matches("PUT */status") and 4 < len(seen) <= 8

    cloud.upstream.script(after_download, faults.answer(500), times=None)
    deployment, report = update(cloud, artifact)
    assert report.result == "failure"
    assert cloud.upstream.outcome(deployment, MAC) == "failure"
    assert calls(cloud).count("POST auth_requests") == 2 + 4


def test_a_lost_success_is_told_again(cloud: Cloud, artifact: ArtifactFile) -> None:
    seen: list[Exchange] = []

    def sixth(exchange: Exchange) -> bool:
        if exchange.matches("PUT */status"):
            seen.append(exchange)
            return len(seen) == 6
        return False

    cloud.upstream.script(sixth, faults.dropped())
    deployment, report = update(cloud, artifact)
    assert report.result == "success"
    assert cloud.upstream.statuses(deployment, MAC) == SUCCESS


def test_inventory_falls_back_to_patch(cloud: Cloud, artifact: ArtifactFile) -> None:
    cloud.upstream.script(f"PUT {INVENTORY}", faults.answer(405), times=None)
    _, report = update(cloud, artifact)
    assert report.result == "success"
    assert len(cloud.upstream.requests_to(f"PATCH {INVENTORY}")) == 3


def test_polls_fall_back_to_get(cloud: Cloud, artifact: ArtifactFile) -> None:
    cloud.upstream.script(f"POST {NEXT_V1}", faults.answer(404), times=None)
    _, report = update(cloud, artifact)
    assert report.result == "success"
    [poll] = cloud.upstream.requests_to(f"GET {NEXT_V1}")
    assert poll.query == {"artifact_name": "release-0", "device_type": "demo-board"}


def test_servers_with_v2_are_asked_that_way(artifact: ArtifactFile) -> None:
    with running(CloudSettings(accept_all=True, api_v2=True)) as cloud:
        _, report = update(cloud, artifact)
        assert report.result == "success"
        assert not cloud.upstream.requests_to(f"* {NEXT_V1}")


def test_a_device_that_is_not_accepted_keeps_asking(artifact: ArtifactFile) -> None:
    with running() as cloud:

        async def main() -> None:
            async with SimulatedDevice(settings(cloud)) as device:
                starting = asyncio.create_task(device.start())
                wait = cloud.upstream.wait_for
                auths = f"POST {AUTH}"
                await asyncio.to_thread(wait, lambda: len(cloud.upstream.requests_to(auths)) > 3)
                cloud.upstream.set_status(MAC, "accepted")
                await starting
                assert device.token is not None

        asyncio.run(main())


def test_a_deadline_ends_a_hopeless_device(cloud: Cloud) -> None:
    async def main() -> DeviceReport:
        async with SimulatedDevice(settings(cloud)) as device:
            return await device.update(0.2)

    report = asyncio.run(main())
    assert (report.result, report.reason) == ("error", "not finished within 0.2 s (polling)")


@pytest.mark.parametrize(
    "bad",
    [
        [("Content-Length", "5"), ("Content-Length", "5")],
        [("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
        [("Content-Length", "x")],
    ],
)
def test_sloppy_framing_is_an_error(
    cloud: Cloud, artifact: ArtifactFile, bad: list[tuple[str, str]]
) -> None:
    cloud.upstream.script(f"POST {NEXT_V2}", faults.answer(200, bad, b"hello"))
    _, report = update(cloud, artifact)
    assert report.result == "success"
    assert any("Content-Length" in error or "length" in error for error in report.errors)
