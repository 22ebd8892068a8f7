"""Holders of a certificate who want more than their own device, and what could help them."""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mender_gateway.demo.answers import Answer
from mender_gateway.demo.exchanges import Exchange
from mender_gateway.demo.faults import Behaviour, Drop, Gate, answer, held
from mender_gateway.demo.keys import signature
from tests.mtls.fleet import AUTH, DEVICES, LOGIN, Device, Fleet, auth_body, post, running_fleet
from tests.mtls.gateways import cut_off
from tests.mtls.test_provisioning import preauthorise
from tests.support.authority import issue, new_key, shared_key
from tests.support.messages import chunked

STATUS = f"PUT {DEVICES}/*/status"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with running_fleet(tmp_path) as found:
        yield found


def test_a_preauthorised_key_is_not_used_up_by_whoever_cannot_sign_with_it(fleet: Fleet) -> None:
    """Server 4.1 would accept the set, whatever the signature."""
    attacker, victim = fleet.device(), fleet.device()
    preauthorise(fleet, {"identity_data": victim.identity, "pubkey": victim.pubkey})
    body = auth_body(victim.identity, victim.pubkey)
    tries = [
        post(body, f"X-Men-Signature: {signature(attacker.key, body)}"),
        post(body, "X-Men-Signature: AAAA"),
        post(body),
        # Read by Go up to the end of the object.
        post(body + b"{}", f"X-Men-Signature: {signature(attacker.key, body + b'{}')}"),
        post(b"\xef\xbb\xbf" + body, "X-Men-Signature: AAAA"),
        post(auth_body(victim.identity, "x\n" + victim.pubkey), "X-Men-Signature: AAAA"),
    ]
    before = len(fleet.upstream.requests)
    assert [fleet.send(attacker, each)[0] for each in tries] == [401, 401, 400, 400, 400, 400]
    assert len(fleet.upstream.requests) == before
    known = fleet.upstream.device(victim.identity)
    assert known is not None
    assert [str(each.status) for each in known.auth_sets] == ["preauthorized"]
    assert fleet.authenticate(victim) == 200


def test_a_request_in_chunks_is_verified_over_its_bytes(fleet: Fleet) -> None:
    device = fleet.device()
    body = device.body
    head = (
        f"POST {AUTH} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
        f"Transfer-Encoding: chunked\r\nX-MEN-Signature: {signature(device.key, body)}\r\n\r\n"
    ).encode()
    assert fleet.send(device, head + chunked(body, 7))[0] == 200
    assert fleet.upstream.requests_to(f"POST {AUTH}")[0].body == body
    other = fleet.device()
    assert fleet.send(other, head + chunked(other.body, 7))[0] == 401


@pytest.mark.parametrize("kind", ["rsa1024"])
def test_a_weak_key_is_never_accepted_by_the_gateway(kind: str, fleet: Fleet) -> None:
    device = fleet.device(key=shared_key(kind))
    assert [fleet.authenticate(device) for _ in range(2)] == [401, 401]
    assert fleet.management() == []
    assert fleet.outcomes("weak-key") == 2
    fleet.gateway.wait_for_log("key is too weak.*RSA key of 1024 bits")
    # Whom an administrator has accepted all the same is the administrator's affair.
    fleet.upstream.set_status(device.identity, "accepted")
    assert fleet.authenticate(device) == 200


def nth(number: int, path: str) -> Callable[[Exchange], bool]:
    """Fits the `number`-th request for `path` and the later ones."""
    seen = 0

    def fits(exchange: Exchange) -> bool:
        nonlocal seen
        if exchange.path != path:
            return False
        seen += 1
        return seen >= number

    return fits


@pytest.mark.parametrize("status", [None, 502, 504])
def test_trouble_when_the_request_is_forwarded_once_more_is_a_503(
    status: int | None, fleet: Fleet
) -> None:
    device = fleet.device()
    behaviour = Behaviour(drop=Drop.AFTER_READING) if status is None else answer(status)
    rule = fleet.upstream.script(nth(2, AUTH), behaviour, times=None)
    found, head, _ = fleet.send(device, device.request())
    if status is None:
        assert found == 503
        assert b"\r\nRetry-After: " in head
    else:
        assert found == status, "an answer of the server goes back as it is"
    rule.cancel()
    assert fleet.authenticate(device) == 200


def test_trouble_while_the_server_records_a_new_key_is_a_503(fleet: Fleet) -> None:
    device, other = fleet.device(), fleet.device()
    preauthorise(fleet, {"identity_data": device.identity, "pubkey": other.pubkey})
    refusal = Answer(401, [], b'{"error":"dev auth: unauthorized"}')
    fleet.upstream.script(f"POST {AUTH}", Behaviour(answer=lambda: refusal), times=1)
    rule = fleet.upstream.script(f"POST {AUTH}", Behaviour(drop=Drop.AFTER_READING), times=None)
    assert fleet.authenticate(device) == 503
    assert fleet.outcomes("unavailable") == 1
    rule.cancel()
    assert fleet.authenticate(device) == 200


@pytest.mark.parametrize("drop", [Drop.AFTER_READING, Drop.AFTER_PROCESSING])
def test_trouble_while_a_key_is_accepted_is_a_503_and_the_next_try_succeeds(
    drop: Drop, fleet: Fleet
) -> None:
    device, other = fleet.device(), fleet.device()
    preauthorise(fleet, {"identity_data": device.identity, "pubkey": other.pubkey})
    rule = fleet.upstream.script(STATUS, Behaviour(drop=drop), times=None)
    assert fleet.authenticate(device) == 503
    rule.cancel()
    assert fleet.authenticate(device) == 200


@pytest.mark.parametrize("status", [400, 403, 422])
def test_a_device_that_the_server_refuses_costs_one_management_call_a_minute(
    status: int, fleet: Fleet
) -> None:
    device = fleet.device()
    fleet.upstream.script(DEVICES, answer(status, (), b'{"error":"no"}'), times=None)
    assert [fleet.authenticate(device) for _ in range(5)] == [401] * 5
    assert len(fleet.upstream.requests_to(DEVICES)) == 1
    assert len(fleet.upstream.requests_to(LOGIN)) == 1
    # Another device is asked for all the same.
    assert fleet.authenticate(fleet.device()) == 401
    assert len(fleet.upstream.requests_to(DEVICES)) == 2


def test_nothing_is_accepted_for_a_certificate_that_is_revoked_meanwhile(tmp_path: Path) -> None:
    blacklist = tmp_path / "blacklist"
    blacklist.touch()
    with running_fleet(tmp_path / "fleet", BlacklistPath=str(blacklist)) as fleet:
        device, other = fleet.device(), fleet.device()
        preauthorise(fleet, {"identity_data": device.identity, "pubkey": other.pubkey})
        gate = Gate()
        fleet.upstream.script(f"GET {DEVICES}/*", held(gate), times=1)
        peer = fleet.connect(device)
        with peer:
            peer.send(device.request())
            gate.wait_reached(20)
            beside = tmp_path / "new"
            beside.write_text(f"{device.certificate.serial:x}\n")
            os.replace(beside, blacklist)
            fleet.gateway.wait_for_log("connection cut: .*reason=blacklisted")
            assert cut_off(peer)
        gate.release()
        # A device of another certificate waits behind it, so that all is done by then.
        assert fleet.authenticate(fleet.device()) == 200
        assert fleet.outcomes("certificate-withdrawn") == 1
        known = fleet.upstream.device(device.identity)
        assert known is not None
        assert not [each for each in fleet.upstream.requests_to(STATUS) if known.id in each.path]


def test_an_identity_of_a_number_is_bound_as_exactly_as_the_server_knows_it(
    tmp_path: Path,
) -> None:
    """9007199254740993 is 9007199254740992 to the server: another device's identity."""
    with running_fleet(tmp_path, IdentityFromCertificate={"n": "CN"}) as fleet:
        for number, status in ((7, 200), (9007199254740993, 403)):
            device = fleet.device(str(number))
            device.identity = {"n": number}
            assert fleet.authenticate(device) == status


def test_a_rejected_device_stays_out_whatever_it_tries(fleet: Fleet) -> None:
    device = fleet.device()
    assert fleet.authenticate(device) == 200
    accepted = len(fleet.upstream.requests_to(STATUS))
    fleet.upstream.set_status(device.identity, "rejected")
    identity = json.dumps(device.identity)
    spellings = [identity, identity.replace(":", " : "), identity.replace("mac", "\\u006dac")]
    keys = [device.key, new_key("p256"), new_key("ed25519"), shared_key("rsa3072")]
    for key in keys:
        pubkey = Device(device.identity, device.certificate, key).pubkey
        for spelling in spellings:
            body = json.dumps({"id_data": spelling, "tenant_token": "", "pubkey": pubkey}).encode()
            assert fleet.send(device, device.request(body, key))[0] == 401
    renewed = Device(device.identity, issue("device-1", fleet.root, key=new_key("p256")), keys[1])
    assert fleet.authenticate(renewed) == 401
    known = fleet.upstream.device(device.identity)
    assert known is not None
    assert "accepted" not in {str(each.status) for each in known.auth_sets}
    assert len(fleet.upstream.requests_to(STATUS)) == accepted


def test_a_request_that_is_made_to_be_slow_is_refused_for_its_size(fleet: Fleet) -> None:
    """Four megabytes of empty lists kept the event loop busy for a second."""
    device = fleet.device()
    for text in ("[],", "{},", '"",'):
        identity = '{"mac":[' + text * 11_000 + "0]}"
        body = json.dumps({"id_data": identity, "pubkey": device.pubkey}).encode()
        assert fleet.send(device, device.request(body))[0] == 413
    assert fleet.upstream.requests == []
    identity = '{"mac":"' + "x" * 30_000 + '"}'
    body = json.dumps({"id_data": identity, "pubkey": device.pubkey}).encode()
    assert fleet.send(device, device.request(body))[0] == 200


def test_whatever_is_sent_only_keys_that_signed_are_ever_authorised(fleet: Fleet) -> None:
    """Requests put together at random from the parts of three devices."""
    chance = random.Random(20_261_125)
    devices = [fleet.device(key=new_key(kind)) for kind in ("p256", "ed25519", "p256")]
    signed: set[bytes] = set()
    honest: set[tuple[str, str]] = set()
    for _ in range(120):
        sender, owner, signer, claimed = (chance.choice(devices) for _ in range(4))
        body = sent = covered = auth_body(claimed.identity, owner.pubkey)
        match chance.randrange(5):
            case 0:
                place = chance.randrange(len(body))
                sent = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
            case 1:
                sent = body + chance.choice([b" ", b"{}", b"\n"])
            case 2:
                covered = auth_body(sender.identity, owner.pubkey)
        given = signature(signer.key, covered)
        if owner is signer and sent == covered:
            signed.add(sent)
            honest.add((json.dumps(claimed.identity), owner.pubkey))
        fleet.send(sender, post(sent, f"X-Men-Signature: {given}"))
    assert 0 < len(signed) < 120
    assert {each.body for each in fleet.upstream.requests_to(f"POST {AUTH}")} <= signed
    for call in fleet.upstream.requests_to(f"POST {DEVICES}"):
        asked = json.loads(call.body)
        assert (json.dumps(asked["identity_data"]), asked["pubkey"]) in honest
