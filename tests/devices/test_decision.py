"""What is done for a key, from the server's view of its device."""

from itertools import product

import pytest

from mender_gateway.devices.auth_request import der_of, fingerprint, load_key
from mender_gateway.devices.decision import Accept, Verdict, decide
from mender_gateway.devices.memory import Decision, Memory
from mender_gateway.management.devices import AuthSet, Device
from tests.support.authority import Issued, issue, new_key

LEAF = issue("device")
OWN, OTHER, THIRD = (Issued(LEAF.certificate, new_key("p256")).public_pem for _ in range(3))
KEY = der_of(load_key(OWN))


def device(status: str, **sets: str) -> Device:
    keys = {"own": OWN, "other": OTHER, "third": THIRD}
    return Device("d", status, tuple(AuthSet(f"set-{n}", keys[n], s) for n, s in sets.items()))


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (device("pending", own="pending"), Accept("set-own", ())),
        (device("accepted", own="accepted"), Verdict.NOTHING_TO_DO),
        (device("preauthorized", own="preauthorized"), Verdict.NOTHING_TO_DO),
        (device("rejected", own="rejected"), Verdict.LEAVE),
        (device("rejected", other="rejected"), Verdict.LEAVE),
        (device("accepted", own="rejected", other="accepted"), Verdict.LEAVE),
        (device("preauthorized", own="pending", other="preauthorized"), Accept("set-own", ())),
        (device("accepted", other="accepted"), Verdict.UNKNOWN_KEY),
        (device("noauth"), Verdict.UNKNOWN_KEY),
        (Device("d", "pending", None), Verdict.UNKNOWN_KEY),
        # Rejected by an administrator, and asking with a new key: the server says pending.
        (device("pending", own="pending", other="rejected"), Verdict.LEAVE),
        # The same set beside an accepted one is a rotation after a rotation.
        (
            device("accepted", own="pending", other="rejected", third="accepted"),
            Accept("set-own", (fingerprint(der_of(load_key(THIRD))),)),
        ),
        (device("pending", own="something new"), Verdict.LEAVE),
    ],
)
def test_the_decision_follows_from_the_sets(known: Device, expected: object) -> None:
    assert decide(known, KEY) == expected


def test_a_key_is_recognised_however_its_pem_is_written() -> None:
    spelled = OWN.replace("\n", "\r\n") + "\n\n"
    known = Device("d", "pending", (AuthSet("a", spelled, "pending"),))
    assert decide(known, KEY) == Accept("a", ())


def test_no_device_of_which_nothing_but_rejected_keys_are_known_is_ever_accepted() -> None:
    statuses = ("pending", "rejected", "accepted", "preauthorized")
    for own, other, third in product(statuses, repeat=3):
        verdict = decide(device("pending", own=own, other=other, third=third), KEY)
        if isinstance(verdict, Accept):
            assert own == "pending"
            rejected = "rejected" in (other, third)
            assert not rejected or {other, third} & {"accepted", "preauthorized"}


@pytest.mark.parametrize("decision", Decision)
def test_memory_forgets_in_time(decision: Decision) -> None:
    memory = Memory()
    memory.remember("a", decision, 0.0)
    found = memory.recall("a", decision.value - 1)
    assert found is not None
    assert found.decision is decision
    assert memory.recall("a", decision.value) is None
    assert len(memory) == 0


def test_memory_forgets_the_oldest_when_it_is_full() -> None:
    memory = Memory(most=3)
    for name in "abcd":
        memory.remember(name, Decision.AUTHORISED, 0.0)
    assert len(memory) == 3
    assert memory.recall("a", 1.0) is None
    assert memory.recall("d", 1.0) is not None
