"""From a certificate to an authorised device, over real sockets and both server generations."""

import gzip
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mender_gateway.demo.answers import Answer
from mender_gateway.demo.faults import Behaviour, Drop
from mender_gateway.demo.keys import signature
from tests.mtls.fleet import AUTH, DEVICES, LOGIN, Device, Fleet, auth_body, post, running_fleet
from tests.support.authority import issue, new_key, shared_key
from tests.support.stage import eventually


@pytest.fixture(params=["4.1", "2023"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    with running_fleet(tmp_path, request.param) as found:
        yield found


@pytest.fixture
def newest(tmp_path: Path) -> Iterator[Fleet]:
    with running_fleet(tmp_path) as found:
        yield found


def test_a_new_device_is_accepted_at_its_first_request(fleet: Fleet) -> None:
    device = fleet.device()
    status, head, body = fleet.send(device, device.request())
    assert status == 200
    assert b"application/jwt" in head
    assert body.count(b".") == 2
    assert fleet.status(device) == "accepted"
    first, last = fleet.upstream.requests_to(f"POST {AUTH}")
    assert (first.status, last.status) == (401, 200)
    assert first.body == last.body == device.body
    assert first.header("x-men-signature") == last.header("x-men-signature")
    for call in fleet.upstream.requests_to("/api/management/*"):
        assert call.header("x-forwarded-for") == "127.0.0.1"
        assert b"force" not in call.body


@pytest.mark.parametrize("kind", ["rsa3072", "p256", "ed25519"])
def test_every_kind_of_auth_key_may_differ_from_the_tls_key(kind: str, newest: Fleet) -> None:
    device = newest.device(key=shared_key(kind))
    assert newest.authenticate(device) == 200


def test_a_known_device_costs_no_management_call(newest: Fleet) -> None:
    device = newest.device()
    assert newest.authenticate(device) == 200
    before = len(newest.management())
    for _ in range(5):
        assert newest.authenticate(device) == 200
    assert len(newest.management()) == before
    assert newest.outcomes("answered") == 5


def test_a_preauthorised_device_costs_no_management_call_either(newest: Fleet) -> None:
    device = newest.device()
    body = {"identity_data": device.identity, "pubkey": device.pubkey}
    preauthorise(newest, body)
    before = len(newest.management())
    assert newest.authenticate(device) == 200
    assert len(newest.management()) == before


def preauthorise(fleet: Fleet, body: Mapping[str, object]) -> None:
    import urllib.request

    request = urllib.request.Request(
        fleet.upstream.base + DEVICES,
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {fleet.upstream.user_token()}"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 201


def test_another_key_than_the_preauthorised_one_is_accepted_on_its_identity(fleet: Fleet) -> None:
    """The certificate vouches for the device; the other key stays what it was."""
    device = fleet.device()
    other = fleet.device()
    preauthorise(fleet, {"identity_data": device.identity, "pubkey": other.pubkey})
    assert fleet.authenticate(device) == 200


def test_a_rotated_key_is_accepted_and_logged_with_both_fingerprints(fleet: Fleet) -> None:
    device = fleet.device()
    assert fleet.authenticate(device) == 200
    rotated = Device(device.identity, device.certificate, new_key("p256"))
    assert fleet.authenticate(rotated) == 200
    line = fleet.gateway.wait_for_log(r'level=warning msg="device key rotated.*')[0]
    assert "old_key=" in line
    assert " key=" in line
    assert 'subject="CN=device-1"' in line
    assert f"serial={device.certificate.serial:X}".replace("=0", "=") in line.replace("=0", "=")
    known = fleet.upstream.device(device.identity)
    assert known is not None
    assert [str(each.status) for each in known.auth_sets] == ["rejected", "accepted"]
    assert fleet.authenticate(device) == 401, "the old key was let in again"
    third = Device(device.identity, device.certificate, new_key("p256"))
    assert fleet.authenticate(third) == 200


def test_a_rejected_device_stays_rejected(fleet: Fleet) -> None:
    device = fleet.device()
    preauthorise(fleet, {"identity_data": device.identity, "pubkey": device.pubkey})
    assert fleet.authenticate(device) == 200
    fleet.upstream.set_status(device.identity, "rejected")
    for _ in range(5):
        assert fleet.authenticate(device) == 401
    assert fleet.status(device) == "rejected"
    rejected_calls = fleet.management()
    assert fleet.authenticate(device) == 401
    assert fleet.management() == rejected_calls, "a remembered rejection was asked for again"
    fleet.gateway.wait_for_log("a rejected device asks to be let in")
    assert fleet.gateway.log.count("a rejected device asks to be let in") == 1
    # A new key does not bring it back, although the server shows it as pending then.
    other = Device(device.identity, device.certificate, new_key("p256"))
    assert fleet.authenticate(other) == 401
    assert fleet.status(device) != "accepted"
    assert not any(b"force" in each.body for each in fleet.upstream.requests)
    # The administrator changes their mind: no waiting for the gateway's memory.
    fleet.upstream.set_status(device.identity, "accepted", newest=False)
    assert fleet.authenticate(device) == 200


def test_a_device_in_a_loop_does_not_cause_calls_in_a_loop(newest: Fleet) -> None:
    device = newest.device()
    assert newest.authenticate(device) == 200
    before = len(newest.management())
    newest.upstream.script(f"POST {AUTH}", Behaviour(answer=unauthorised), times=None)
    for _ in range(10):
        assert newest.authenticate(device) == 401
    assert len(newest.management()) == before
    assert newest.outcomes("remembered") == 10
    said = "refuses a device that was authorised a moment ago"
    newest.gateway.wait_for_log(f'{said}.*subject="CN=device-1"')
    assert newest.gateway.log.count(said) == 1


def unauthorised() -> Answer:
    return Answer(401, [("Content-Type", "application/json")], b'{"error":"no"}')


def test_without_cache_every_refusal_is_looked_into(tmp_path: Path) -> None:
    with running_fleet(tmp_path, EnableCache=False) as fleet:
        device = fleet.device()
        assert fleet.authenticate(device) == 200
        before = len(fleet.management())
        fleet.upstream.script(f"POST {AUTH}", Behaviour(answer=unauthorised), times=None)
        assert [fleet.authenticate(device) for _ in range(3)] == [401] * 3
        assert len(fleet.management()) >= before + 3


def test_a_badly_signed_request_goes_no_further(fleet: Fleet) -> None:
    device, victim = fleet.device(), fleet.device()
    good = signature(device.key, device.body)
    cases = {
        "another key's signature": device.request(signer=victim.key),
        "somebody else's public key": post(
            auth_body(device.identity, victim.pubkey),
            f"X-MEN-Signature: {signature(device.key, auth_body(device.identity, victim.pubkey))}",
        ),
        "a replay with another identity": post(
            auth_body({"mac": "other"}, device.pubkey), f"X-MEN-Signature: {good}"
        ),
        "no base64": post(device.body, "X-MEN-Signature: !!!"),
        "empty": post(device.body, "X-MEN-Signature: AA=="),
        "two signatures": post(device.body, "X-MEN-Signature: AAAA", f"X-MEN-Signature: {good}"),
        "without the final newline": post(device.body.rstrip(b"\n"), f"X-MEN-Signature: {good}"),
    }
    for name, request in cases.items():
        assert fleet.send(device, request)[0] == 401, name
    assert fleet.outcomes("bad-signature") == len(cases)
    fleet.gateway.wait_for_log("auth request is not signed by the key it names")
    assert fleet.send(device, post(device.body))[0] == 400  # as the server says without signature
    assert fleet.upstream.requests == []


def test_a_request_with_two_readings_is_refused_before_the_server_sees_it(newest: Fleet) -> None:
    device, other = newest.device(), newest.device()
    key, another = json.dumps(device.pubkey), json.dumps(other.pubkey)
    bodies = [
        f'{{"id_data":"{{\\"mac\\":\\"a\\"}}","pubkey":{key},"pubkey":{another}}}',
        f'{{"id_data":"{{\\"mac\\":\\"a\\"}}","pubkey":{key},"PubKey":{another}}}',
        f'{{"ID_DATA":"{{\\"mac\\":\\"a\\"}}","pubkey":{key}}}',
        f'{{"id_data":"{{\\"mac\\":\\"a\\"}}","\\u0070ubkey":{key},"pubkey":{another}}}',
        f'{{"id_data":"{{\\"mac\\":\\"a\\",\\"mac\\":\\"b\\"}}","pubkey":{key}}}',
        f'{{"id_data":"{{\\"mac\\":\\"a\\"}}","pub\\u212Aey":{another},"pubkey":{key}}}',
        f'{{"id_data":"{{\\"m\\\\ud800\\":1,\\"m\\\\ud801\\":2}}","pubkey":{key}}}',
    ]
    for text in bodies:
        status, _, body = newest.send(device, device.request(text.encode()))
        assert status == 400, text
        assert b"ambiguous" in body
    assert newest.upstream.requests == []
    assert newest.outcomes("ambiguous") == len(bodies)


def test_what_cannot_be_verified_goes_no_further(newest: Fleet) -> None:
    """A server that reads on where the gateway stops would act on an unverified request."""
    device = newest.device()
    good = device.body
    bodies = [
        *(b"{", b"[]", b'{"id_data":"x"}', b'{"pubkey":1}', b"\xff", b"{}" * 3),
        *(
            good + b"{}",
            b"\xef\xbb\xbf" + good,
            gzip.compress(good),
            good.decode().encode("utf-16"),
        ),
    ]
    for body in bodies:
        status, _, answer = newest.send(device, device.request(body))
        assert status == 400
        assert b"ambiguous" not in answer
    assert newest.upstream.requests == []
    assert newest.outcomes("unreadable") == len(bodies)


def test_a_body_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    with running_fleet(tmp_path, other={"Limits": {"JSONBytes": "4KiB"}}) as fleet:
        device = fleet.device()
        assert fleet.send(device, device.request(b"x" * 5000))[0] == 413
        assert fleet.upstream.requests == []


def test_numbers_in_an_identity_reach_the_server_as_they_were_written(newest: Fleet) -> None:
    device = newest.device()
    text = '{"mac":"x", "n": 1.50, "big": 12345678901234567890}'
    body = json.dumps({"id_data": text, "pubkey": device.pubkey}).encode()
    assert newest.send(device, device.request(body))[0] == 200
    made = newest.upstream.requests_to(f"POST {DEVICES}")
    assert b'"n": 1.50, "big": 12345678901234567890' in made[0].body


def test_one_login_serves_all_and_a_refused_token_is_renewed_once(newest: Fleet) -> None:
    devices = [newest.device() for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(newest.authenticate, devices)) == [200] * 20
    assert len(newest.upstream.requests_to(LOGIN)) == 1
    newest.upstream.script(
        lambda exchange: exchange.path.startswith(DEVICES), Behaviour(answer=unauthorised), times=1
    )
    devices = [newest.device() for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(newest.authenticate, devices)) == [200] * 10
    assert len(newest.upstream.requests_to(LOGIN)) == 2


def test_equal_requests_at_the_same_time_are_authorised_once(newest: Fleet) -> None:
    device = newest.device()
    newest.context(device.certificate)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(newest.authenticate, [device] * 16)) == [200] * 16
    assert len(newest.upstream.requests_to(f"PUT {DEVICES}/*/status")) == 1


@pytest.mark.parametrize(
    ("generation", "count"),
    [("4.1", 200), ("2023", 100), pytest.param("4.1", 1000, marks=pytest.mark.full)],
)
def test_many_devices_at_once_are_all_accepted_with_bounded_work_upstream(
    generation: str, count: int, tmp_path: Path
) -> None:
    with running_fleet(tmp_path, generation) as fleet:  # type: ignore[arg-type]
        key = shared_key("p256")
        certificates = [issue(f"device {number}", fleet.root) for number in range(count)]
        devices = [
            Device({"mac": f"{number:04x}"}, certificate, key)
            for number, certificate in enumerate(certificates)
        ]
        for device in devices:
            fleet.context(device.certificate)
        open_now, most = set[int](), 0

        def watch() -> None:
            nonlocal most
            for each in fleet.upstream.requests_to("/api/management/*"):
                (open_now.discard if each.done else open_now.add)(each.sequence)
            most = max(most, len(open_now))

        with ThreadPoolExecutor(count) as pool:
            running = [pool.submit(fleet.authenticate, device) for device in devices]
            while not all(each.done() for each in running):
                watch()
            assert [each.result() for each in running] == [200] * count
        assert 0 < most <= 8
        assert len(fleet.upstream.requests_to(LOGIN)) == 1
        assert {fleet.status(device) for device in devices} == {"accepted"}


@pytest.mark.parametrize("path", [LOGIN, DEVICES, DEVICES + "/*"])
@pytest.mark.parametrize("drop", [Drop.AFTER_READING, Drop.AFTER_PROCESSING])
def test_trouble_at_any_step_is_a_503_and_the_next_try_succeeds(
    path: str, drop: Drop, newest: Fleet
) -> None:
    device = newest.device()
    rule = newest.upstream.script(path, Behaviour(drop=drop), times=None)
    status, head, body = newest.send(device, device.request())
    assert status == 503
    assert b"Retry-After: " in head
    assert b'"error"' in body
    rule.cancel()
    eventually(lambda: newest.authenticate(device) == 200)
    assert newest.outcomes("unavailable") >= 1


@pytest.mark.parametrize("status", [500, 503, 429])
def test_an_error_of_the_management_api_is_a_503(status: int, newest: Fleet) -> None:
    device = newest.device()
    answer = Answer(status, [("Retry-After", "46")], b"{}")
    newest.upstream.script(DEVICES, Behaviour(answer=lambda: answer), times=1)
    found, head, _ = newest.send(device, device.request())
    assert found == 503
    assert b"Retry-After: 46\r\n" in head
    assert newest.authenticate(device) == 200


def test_a_device_that_vanishes_in_between_is_no_fault(newest: Fleet) -> None:
    device = newest.device()
    gone = Answer(404, [], b'{"error":"device not found"}')
    newest.upstream.script(f"GET {DEVICES}/*", Behaviour(answer=lambda: gone), times=1)
    assert newest.authenticate(device) == 503
    assert newest.authenticate(device) == 200


def test_the_server_is_asked_again_when_it_has_not_recorded_the_key(newest: Fleet) -> None:
    device = newest.device()
    other = newest.device()
    preauthorise(newest, {"identity_data": device.identity, "pubkey": other.pubkey})
    refusal = Answer(401, [], b'{"error":"dev auth: unauthorized"}')
    newest.upstream.script(f"POST {AUTH}", Behaviour(answer=lambda: refusal), times=1)
    assert newest.authenticate(device) == 200
    assert len(newest.upstream.requests_to(f"POST {AUTH}")) == 3


def test_matching_keys_can_be_insisted_upon(tmp_path: Path) -> None:
    with running_fleet(tmp_path, RequireMatchingKey=True) as fleet:
        device = fleet.device()
        assert fleet.authenticate(device) == 200
        other = fleet.device(key=new_key("p256"))
        status, _, body = fleet.send(other, other.request())
        assert status == 403
        assert b"not the key of the TLS certificate" in body
        assert fleet.status(other) is None, "the request reached the server"
        assert fleet.send(other, other.request(b"{"))[0] == 400
        assert fleet.outcomes("contradicts-certificate") == 1
        assert "may claim ANY identity" not in fleet.gateway.log


def test_start_warns_that_matching_keys_alone_bind_no_identity(tmp_path: Path) -> None:
    with running_fleet(tmp_path / "one", RequireMatchingKey=True) as fleet:
        fleet.gateway.wait_for_log("level=warning .*not to an identity")
    with running_fleet(tmp_path / "two", IdentityFromCertificate={"mac": "CN"}) as fleet:
        assert "identity" not in fleet.gateway.log.lower()


def test_identities_can_be_bound_to_certificates(tmp_path: Path) -> None:
    mapping = {"mac": "CN", "serial": "serial"}
    with running_fleet(tmp_path, IdentityFromCertificate=mapping) as fleet:
        device = fleet.device("aa:bb")
        serial = f"{device.certificate.serial:X}"
        device.identity["serial"] = serial
        assert fleet.authenticate(device) == 200
        for identity in (
            {"mac": "aa:bc", "serial": serial},
            {"mac": "aa:bb", "serial": "1"},
            {"mac": "aa:bb"},
            {"mac": ["aa:bb"], "serial": serial},
            {"mac": "aa:bb", "serial": True},
        ):
            device.identity = identity
            assert fleet.authenticate(device) == 403, identity
        assert len(fleet.upstream.devices()) == 1


def test_start_warns_that_any_certificate_may_claim_any_identity(newest: Fleet) -> None:
    assert "the holder of ANY device certificate may claim ANY identity" in newest.gateway.log


def test_wrong_credentials_are_reported_once_and_not_hammered(tmp_path: Path) -> None:
    with running_fleet(tmp_path, MenderPassword="wrong") as fleet:
        devices = [fleet.device() for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(fleet.authenticate, devices)) == [401] * 8
        assert [fleet.authenticate(device) for device in devices] == [401] * 8
        assert len(fleet.upstream.requests_to(LOGIN)) == 1
        fleet.gateway.wait_for_log("devices cannot be authorised")
        assert fleet.gateway.log.count("devices cannot be authorised") == 1
        assert "MenderToken" in fleet.gateway.log
        assert "wrong" not in fleet.gateway.log


def test_a_personal_access_token_needs_no_login(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("not yet\n")
    settings: dict[str, Any] = {"MenderPassword": None, "MenderTokenFile": str(token)}
    with running_fleet(tmp_path, "4.1", None, **settings) as fleet:
        assert fleet.authenticate(fleet.device()) == 401
        fleet.gateway.wait_for_log("is no token")
    token.unlink()
    with running_fleet(tmp_path / "again", MenderPassword=None, MenderToken="a.b.c") as fleet:
        assert fleet.authenticate(fleet.device()) == 401
        assert fleet.authenticate(fleet.device()) == 401
        fleet.gateway.wait_for_log("refuses the management token")
        assert len(fleet.management()) == 1
        assert not fleet.upstream.requests_to(LOGIN)


def test_credentials_may_lie_in_files(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("demo-password\n")
    settings: dict[str, Any] = {"MenderPassword": None, "MenderPasswordFile": str(password)}
    with running_fleet(tmp_path / "fleet", "4.1", None, **settings) as fleet:
        assert fleet.authenticate(fleet.device()) == 200


def test_an_upstream_that_drops_the_request_is_a_502_and_no_more(newest: Fleet) -> None:
    device = newest.device()
    newest.upstream.script(AUTH, Behaviour(drop=Drop.BEFORE_READING), times=None)
    assert newest.authenticate(device) == 502
    assert newest.management() == []
