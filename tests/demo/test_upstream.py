"""The upstream beyond the transcript: its generations, switches, limits, and a test's view."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mender_gateway.demo.artifact import ArtifactFile
from mender_gateway.demo.cloud import Cloud, CloudSettings, running
from mender_gateway.demo.keys import KeyKind, PrivateKey, new_key, public_pem, signature
from tests.demo.asking import DEVICE_TYPE, Answered, Ask, make_artifact

AUTH = "/api/devices/v1/authentication/auth_requests"
INVENTORY = "/api/devices/v1/inventory/device/attributes"
V1, V2 = (f"/api/devices/{v}/deployments/device/deployments" for v in ("v1", "v2"))
DEVICES = "/api/management/v2/devauth/devices"
MAC = {"mac": "02:00:00:00:00:01"}


@pytest.fixture
def strict() -> Iterator[Cloud]:
    """An upstream that accepts nobody by itself."""
    with running() as cloud:
        yield cloud


class Device:
    """A device of a test's own making, which signs by itself."""

    def __init__(self, cloud: Cloud, ask: Ask, kind: KeyKind = "ec") -> None:
        self.cloud, self.ask = cloud, ask
        self.key: PrivateKey = new_key(kind)
        self.token = ""

    def authenticate(
        self, id_data: str | None = None, sign: bytes | None = None, accept: str = "identity"
    ) -> Answered:
        value = {"id_data": id_data or json.dumps(MAC), "pubkey": public_pem(self.key)}
        body = json.dumps(value).encode()
        signed = signature(self.key, sign if sign is not None else body)
        fields = {
            "Content-Type": "application/json",
            "X-MEN-Signature": signed,
            "Accept-Encoding": accept,
        }
        answer = self.ask(self.cloud.upstream.base, "POST", AUTH, fields, body)
        if answer.status == 200 and not answer.header("content-encoding"):
            self.token = answer.body.decode()
        return answer

    def call(self, method: str, target: str, value: object = None, **extra: str) -> Answered:
        fields = {"Authorization": f"Bearer {self.token}"} | extra
        body = None if value is None else json.dumps(value).encode()
        return self.ask(self.cloud.upstream.base, method, target, fields, body)

    def poll(self, **extra: str) -> Answered:
        value = {"device_type": DEVICE_TYPE, "artifact_name": "release-0"}
        return self.call("POST", f"{V1}/next", value, **extra)


def manage(cloud: Cloud, ask: Ask, method: str, target: str, value: object) -> Answered:
    fields = {"Authorization": f"Bearer {cloud.upstream.user_token()}"}
    body = json.dumps(value).encode()
    return ask(cloud.upstream.base, method, target, fields, body)


@pytest.mark.parametrize("kind", ["rsa", "ec", "ed25519"])
def test_every_kind_of_key_is_let_in(cloud: Cloud, ask: Ask, kind: KeyKind) -> None:
    device = Device(cloud, ask, kind)
    assert device.authenticate(sign=b"something else").status == 401
    assert device.authenticate().status == 200


def test_a_bad_signature_is_noticed_only_after_its_effect(strict: Cloud, ask: Ask) -> None:
    device = Device(strict, ask)
    assert device.authenticate(sign=b"something else").status == 401
    found = strict.upstream.device(MAC)
    assert found is not None
    assert found.status == "pending"


def test_a_badly_signed_request_accepts_a_preauthorised_key(strict: Cloud, ask: Ask) -> None:
    device = Device(strict, ask)
    value = {"identity_data": MAC, "pubkey": public_pem(device.key)}
    assert manage(strict, ask, "POST", DEVICES, value).status == 201
    assert device.authenticate(sign=b"something else").status == 401
    found = strict.upstream.device(MAC)
    assert found is not None
    assert found.status == "accepted"


@pytest.mark.parametrize(("generation", "status"), [("4.1", 201), ("2023", 409)])
def test_force_is_known_to_the_new_generation_only(ask: Ask, generation: str, status: int) -> None:
    settings = CloudSettings(generation="2023" if generation == "2023" else "4.1")
    with running(settings) as cloud:
        device = Device(cloud, ask)
        device.authenticate()
        value = {"identity_data": MAC, "pubkey": public_pem(device.key), "force": True}
        assert manage(cloud, ask, "POST", DEVICES, value).status == status


def test_spelling_of_the_identity_does_not_matter(cloud: Cloud, ask: Ask) -> None:
    device = Device(cloud, ask)
    assert device.authenticate('{"mac":"1","sn":"2"}').status == 200
    assert device.authenticate('{ "sn": "2",  "mac": "1" }').status == 200
    assert len(cloud.upstream.devices()) == 1


def test_an_older_token_stays_valid_until_the_set_is_rejected(cloud: Cloud, ask: Ask) -> None:
    device = Device(cloud, ask)
    device.authenticate()
    older = device.token
    device.authenticate()
    device.token = older
    assert device.poll().status == 204
    cloud.upstream.set_status(MAC, "rejected")
    refused = device.poll()
    assert (refused.status, refused.body, refused.header("content-type")) == (401, b"", None)


def test_revoked_tokens_are_refused_until_the_next_authentication(cloud: Cloud, ask: Ask) -> None:
    device = Device(cloud, ask)
    device.authenticate()
    cloud.upstream.revoke_tokens(MAC)
    assert device.poll().status == 401
    assert device.authenticate().status == 200
    assert device.poll().status == 204


@pytest.mark.parametrize("target", [INVENTORY, f"{V1}/x/log"])
def test_bodies_of_more_than_a_mebibyte_are_refused(cloud: Cloud, ask: Ask, target: str) -> None:
    device = Device(cloud, ask)
    device.authenticate()
    answer = device.call("PUT", target, "x" * (1 << 20))
    assert answer.status == 413
    assert answer.json()["error"] == "http: request body too large"


def test_long_answers_are_compressed_for_who_accepts_it(cloud: Cloud, ask: Ask) -> None:
    device = Device(cloud, ask)
    answer = device.authenticate(accept="gzip")
    assert answer.header("content-encoding") == "gzip"
    assert gzip.decompress(answer.body).startswith(b"eyJ")
    device.authenticate()
    assert device.token.count(".") == 2


def test_long_answers_come_chunked(cloud: Cloud, ask: Ask) -> None:
    for number in range(8):
        Device(cloud, ask).authenticate(json.dumps({"mac": str(number)}))
    answer = manage(cloud, ask, "GET", DEVICES, None)
    assert len(answer.json()) == 8
    assert answer.header("transfer-encoding") == "chunked"
    assert answer.header("content-length") is None


def test_device_lists_have_pages(cloud: Cloud, ask: Ask) -> None:
    for number in range(5):
        Device(cloud, ask).authenticate(json.dumps({"mac": str(number)}))
    answer = manage(cloud, ask, "GET", f"{DEVICES}?page=2&per_page=2", None)
    assert len(answer.json()) == 2
    links = [value for name, value in answer.headers if name == "Link"]
    assert [link.rpartition("=")[2] for link in links] == ['"first"', '"prev"', '"next"']


def test_v2_polls_exist_where_switched_on(ask: Ask, artifact: ArtifactFile) -> None:
    states = {"states": {"ArtifactInstall_Enter": {"action": "pause"}}}
    with running(CloudSettings(accept_all=True, api_v2=True)) as cloud:
        device = Device(cloud, ask)
        device.authenticate()
        cloud.upstream.add_artifact(artifact.path)
        deployment = cloud.upstream.deploy("release-1", [MAC], control_map=states)
        provides = {"device_type": DEVICE_TYPE, "artifact_name": "release-0"}
        wanted = {"device_provides": provides, "update_control_map": True}
        answer = device.call("POST", f"{V2}/next", wanted)
        assert answer.status == 200
        assert answer.json()["update_control_map"] == {"id": deployment} | states
        control = device.call("GET", f"{V2}/{deployment}/update_control_map")
        assert control.json() == {"update_control_map": {"id": deployment} | states}


def test_two_polls_get_one_link_as_long_as_the_second_lasts(
    ask: Ask, artifact: ArtifactFile
) -> None:
    times = iter([1_800_000_000.25, 1_800_000_000.75])
    now = [1_800_000_000.0]
    with running(CloudSettings(accept_all=True, clock=lambda: now[0])) as cloud:
        device = Device(cloud, ask)
        device.authenticate()
        cloud.upstream.add_artifact(artifact.path)
        cloud.upstream.deploy("release-1", [MAC])
        sources = []
        for moment in times:
            now[0] = moment
            sources.append(device.poll().json()["artifact"]["source"])
    assert sources[0]["uri"] == sources[1]["uri"]
    assert sources[0]["expire"] == "2027-01-16T08:00:00.25Z"
    assert sources[1]["expire"] == "2027-01-16T08:00:00.75Z"


def test_statuses_are_kept_in_their_order_even_after_success(
    cloud: Cloud, ask: Ask, artifact: ArtifactFile
) -> None:
    device = Device(cloud, ask)
    device.authenticate()
    cloud.upstream.add_artifact(artifact.path)
    deployment = cloud.upstream.deploy("release-1", [MAC])
    assert cloud.upstream.outcome(deployment, MAC) == "pending"
    device.poll()
    sent = ["downloading", "installing", "success", "failure"]
    for status in sent:
        answer = device.call("PUT", f"{V1}/{deployment}/status", {"status": status})
        assert answer.status == 204
    assert cloud.upstream.statuses(deployment, MAC) == sent
    assert cloud.upstream.outcome(deployment, MAC) == "failure"


def test_each_device_type_gets_its_own_artifact_of_one_release(
    cloud: Cloud, ask: Ask, tmp_path: Path
) -> None:
    first = make_artifact(tmp_path, "release-1", 10_000)
    cloud.upstream.add_artifact(first.path)
    device = Device(cloud, ask)
    device.authenticate()
    deployment = cloud.upstream.deploy("release-1", [MAC])
    other = {"device_type": "another-board", "artifact_name": "release-0"}
    assert device.call("POST", f"{V1}/next", other).status == 204
    assert cloud.upstream.outcome(deployment, MAC) == "noartifact"


@pytest.mark.parametrize(
    ("extra", "host"),
    [({"X-Forwarded-Host": "gateway.lab:8443"}, "gateway.lab:8443"), ({}, None)],
)
def test_configuration_links_name_the_host_of_the_request(
    cloud: Cloud, ask: Ask, extra: dict[str, str], host: str | None
) -> None:
    device = Device(cloud, ask)
    device.authenticate()
    cloud.upstream.configure(MAC, {"timezone": "UTC"})
    uri = urlsplit(device.poll(**extra).json()["artifact"]["source"]["uri"])
    assert uri.netloc == (host or cloud.upstream.base.removeprefix("http://"))
    fetched = ask(cloud.upstream.base, "GET", f"{uri.path}?{uri.query}", {"Host": "any.host"})
    assert fetched.status == 200
    assert fetched.body.startswith(b"version")


def test_a_configured_host_goes_before_the_requests(ask: Ask) -> None:
    with running(CloudSettings(accept_all=True, configuration_host="mender.example")) as cloud:
        device = Device(cloud, ask)
        device.authenticate()
        cloud.upstream.configure(MAC, {"timezone": "UTC"})
        answer = device.poll(**{"X-Forwarded-Host": "gateway.lab"})
        uri = answer.json()["artifact"]["source"]["uri"]
        assert uri.startswith("http://mender.example/api/devices/v1/deployments/download/")


def test_what_devices_report_can_be_looked_up(cloud: Cloud, ask: Ask) -> None:
    device = Device(cloud, ask)
    device.authenticate()
    attributes = [{"name": "device_type", "value": "b"}, {"name": "ips", "value": ["1", "2"]}]
    assert device.call("PUT", INVENTORY, attributes).status == 200
    assert cloud.upstream.inventory_of(MAC) == {"device_type": "b", "ips": ["1", "2"]}


def test_the_date_follows_the_clock_it_is_given(ask: Ask) -> None:
    with running(CloudSettings(clock=lambda: 0.0)) as cloud:
        answer = ask(cloud.upstream.base, "GET", DEVICES)
        assert answer.header("date") == "Thu, 01 Jan 1970 00:00:00 GMT"
