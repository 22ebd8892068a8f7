"""What the gateway may do for a key, given the server's view of its device: a pure decision.

A device that an administrator has rejected stays rejected. The server shows such a device as
pending as soon as another key of it asks, so its keys tell: one that is rejected, and none that is
accepted or preauthorised. After a rotation there is always an accepted one beside the rejected.
"""

from dataclasses import dataclass
from enum import Enum

from mender_gateway.devices.auth_request import Unreadable, der_of, fingerprint, load_key
from mender_gateway.management.devices import AuthSet, Device

_IN_FORCE = frozenset({"accepted", "preauthorized"})


class Verdict(Enum):
    LEAVE = "rejected: left alone"
    NOTHING_TO_DO = "accepted or preauthorised already"
    UNKNOWN_KEY = "the server has not recorded the key"


@dataclass(frozen=True, slots=True)
class Accept:
    """Accept this set of the device."""

    set_id: str
    replaces: tuple[str, ...]
    """Fingerprints of accepted keys that the server will reject for it."""


def decide(device: Device, public_key: bytes) -> Verdict | Accept:
    """What to do for the key with this SubjectPublicKeyInfo."""
    own: AuthSet | None = None
    others: list[tuple[str, bytes | None]] = []
    for each in device.auth_sets or ():
        der = _der(each)
        if der == public_key:
            own = each
        else:
            others.append((each.status, der))
    if device.status == "rejected" or (own is not None and own.status == "rejected"):
        return Verdict.LEAVE
    if own is None:
        return Verdict.UNKNOWN_KEY
    if own.status in _IN_FORCE:
        return Verdict.NOTHING_TO_DO
    if own.status != "pending":
        return Verdict.LEAVE
    statuses = {status for status, _ in others}
    if "rejected" in statuses and not statuses & _IN_FORCE:
        return Verdict.LEAVE
    accepted = (der for status, der in others if status == "accepted")
    return Accept(own.id, tuple(fingerprint(der) if der else "unreadable" for der in accepted))


def _der(auth_set: AuthSet) -> bytes | None:
    try:
        return der_of(load_key(auth_set.pubkey))
    except Unreadable:
        return None
