"""Devices, their auth sets, and who is let in: the server's device authentication, without HTTP.

A device is an identity; an auth set is one public key of it. At most one auth set of a device is
accepted. The quirks are the real service's: an auth request takes its effect before its signature
is checked, and `force` preauthorises without a look at the device's status.
"""

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from cryptography.hazmat.primitives.serialization import load_pem_public_key

from mender_gateway.demo.apis import tokens
from mender_gateway.demo.apis.gotext import timestamp
from mender_gateway.demo.keys import verified

Generation = Literal["4.1", "2023"]

Identity = Mapping[str, object]


class Status(StrEnum):
    ACCEPTED = "accepted"
    PREAUTHORIZED = "preauthorized"
    PENDING = "pending"
    REJECTED = "rejected"
    NOAUTH = "noauth"


@dataclass(slots=True)
class AuthSet:
    id: str
    pubkey: str
    status: Status
    created: float
    has_token: bool = False
    """A token was issued and is not revoked."""


@dataclass(slots=True)
class Device:
    id: str
    identity: dict[str, object]
    status: Status
    created: float
    updated: float
    checked_in: float | None = None
    auth_sets: list[AuthSet] = field(default_factory=list)

    def set_for(self, pubkey: str) -> AuthSet | None:
        return next((s for s in self.auth_sets if s.pubkey == pubkey), None)

    def as_json(self, with_sets: bool = True) -> dict[str, object]:
        """The management API's view; conflicts come without the auth sets."""
        sets = [
            {
                "id": s.id,
                "identity_data": self.identity,
                "pubkey": s.pubkey,
                "ts": timestamp(s.created),
                "status": s.status,
            }
            for s in self.auth_sets
        ]
        view: dict[str, object] = {
            "id": self.id,
            "identity_data": self.identity,
            "status": self.status,
            "decommissioning": False,
            "created_ts": timestamp(self.created),
            "updated_ts": timestamp(self.updated),
            "auth_sets": sets if with_sets else None,
        }
        if self.checked_in is not None:
            view["check_in_time"] = timestamp(self.checked_in)
        return view


class Refused(Exception):
    """The service says no; `args[0]` is its text."""


class Conflict(Exception):
    """The identity exists already."""

    def __init__(self, device: Device) -> None:
        super().__init__(device.id)
        self.device = device


def normalised_key(pem: object) -> str:
    """The key as the server stores it; `ValueError` for what is no public key."""
    if not isinstance(pem, str):
        raise ValueError("cannot decode public key")
    try:
        load_pem_public_key(pem.encode())
    except Exception:
        raise ValueError("cannot decode public key") from None
    return pem.strip() + "\n"


def normalised_identity(identity: Identity) -> str:
    return json.dumps(identity, sort_keys=True, separators=(",", ":"))


class DeviceAuth:
    """All devices of the server, by identity and by id."""

    def __init__(
        self,
        generation: Generation = "4.1",
        accept_all: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.generation = generation
        self.accept_all = accept_all
        """Accept every new auth set of a device that has none accepted, for demonstrations."""
        self._clock = clock
        self._devices: dict[str, Device] = {}
        self._by_identity: dict[str, Device] = {}

    def devices(self) -> list[Device]:
        """In the order of their ids, as the management API lists them."""
        return sorted(self._devices.values(), key=lambda device: device.id)

    def device(self, device_id: str) -> Device | None:
        return self._devices.get(device_id)

    def find(self, identity: Identity) -> Device | None:
        return self._by_identity.get(normalised_identity(identity))

    def authenticate(
        self, identity: Identity, pubkey: str, body: bytes, signature: bytes
    ) -> str | None:
        """The token for a device that is let in, else None. Takes effect before the check."""
        now = self._clock()
        device = self.find(identity) or self._new_device(identity)
        auth_set = device.set_for(pubkey)
        if auth_set is None:
            auth_set = AuthSet(str(uuid.uuid4()), pubkey, Status.PENDING, now)
            device.auth_sets.append(auth_set)
            self._settle(device)
        admitted = auth_set.status is Status.PREAUTHORIZED or (
            self.accept_all
            and auth_set.status is Status.PENDING
            and not any(s.status is Status.ACCEPTED for s in device.auth_sets)
        )
        if admitted:
            self._accept(device, auth_set)
        if not verified(pubkey, body, signature) or auth_set.status is not Status.ACCEPTED:
            return None
        auth_set.has_token = True
        device.updated = device.checked_in = now
        return tokens.device_token(auth_set.id, device.id, now)

    def holder_of(self, token: str) -> Device | None:
        """The device that a token lets in at this moment."""
        claims = tokens.claims_of(token) or {}
        device = self._devices.get(str(claims.get("sub")))
        if device is None or not claims.get("mender.device"):
            return None
        auth_set = next((s for s in device.auth_sets if s.id == claims.get("jti")), None)
        if auth_set is None or auth_set.status is not Status.ACCEPTED or not auth_set.has_token:
            return None
        return device if tokens.is_valid(token, self._clock()) else None

    def preauthorise(self, identity: Identity, pubkey: str, force: bool = False) -> str:
        """The id of the new device; `Conflict` when the identity exists.

        With `force`, on a 4.x server, the key becomes preauthorised on an existing device whatever
        its status, which is left as it was; the id returned then names no device.
        """
        device = self.find(identity)
        if device is None:
            device = self._new_device(identity)
            self._put(device, pubkey)
            self._settle(device, touch=False)
            return device.id
        if not force or self.generation == "2023":
            raise Conflict(device)
        self._put(device, pubkey)
        return str(uuid.uuid4())

    def set_status(self, device_id: str, set_id: str, status: str) -> None:
        """An administrator's decision; `LookupError` for no such set, `Refused` otherwise."""
        if status not in (Status.ACCEPTED, Status.REJECTED, Status.PENDING):
            raise Refused("incorrect device status")
        owner = next(
            (d for d in self._devices.values() if any(s.id == set_id for s in d.auth_sets)), None
        )
        if owner is None:
            raise LookupError(set_id)
        if owner.id != device_id:
            raise Refused("dev auth: dev ID and auth ID mismatch")
        auth_set = next(s for s in owner.auth_sets if s.id == set_id)
        if auth_set.status is Status.PREAUTHORIZED and status == Status.ACCEPTED:
            raise Refused("dev auth: bad request")
        if auth_set.status == status:
            return
        if status == Status.ACCEPTED:
            self._accept(owner, auth_set)
            return
        auth_set.status, auth_set.has_token = Status(status), False
        self._settle(owner)

    def remove_set(self, device_id: str, set_id: str) -> bool:
        """Whether there was such an auth set."""
        device = self._devices.get(device_id)
        kept = [s for s in device.auth_sets if s.id != set_id] if device else []
        if device is None or len(kept) == len(device.auth_sets):
            return False
        device.auth_sets = kept
        self._settle(device)
        return True

    def decommission(self, device_id: str) -> bool:
        """Forgets the device; whether there was one."""
        device = self._devices.pop(device_id, None)
        if device is not None:
            del self._by_identity[normalised_identity(device.identity)]
        return device is not None

    def revoke_tokens(self, device_id: str | None = None) -> None:
        """Kills the tokens of one device or of all; they may authenticate again."""
        for device in self._devices.values():
            if device_id in (None, device.id):
                for auth_set in device.auth_sets:
                    auth_set.has_token = False

    def _new_device(self, identity: Identity) -> Device:
        now = self._clock()
        ordered = {name: identity[name] for name in sorted(identity)}
        device = Device(str(uuid.uuid4()), ordered, Status.NOAUTH, now, now)
        self._devices[device.id] = self._by_identity[normalised_identity(identity)] = device
        return device

    def _put(self, device: Device, pubkey: str) -> None:
        """Makes the key preauthorised on the device, in place of what it was."""
        auth_set = device.set_for(pubkey)
        if auth_set is None:
            auth_set = AuthSet(str(uuid.uuid4()), pubkey, Status.PREAUTHORIZED, self._clock())
            device.auth_sets.append(auth_set)
        auth_set.status, auth_set.has_token = Status.PREAUTHORIZED, False

    def _accept(self, device: Device, chosen: AuthSet) -> None:
        """The set is accepted; one that was accepted before becomes rejected."""
        for other in device.auth_sets:
            if other is not chosen and other.status is Status.ACCEPTED:
                other.status, other.has_token = Status.REJECTED, False
        chosen.status = Status.ACCEPTED
        self._settle(device)

    def _settle(self, device: Device, touch: bool = True) -> None:
        """The device's status follows from its auth sets, the strongest first."""
        present = {s.status for s in device.auth_sets}
        strongest = (Status.ACCEPTED, Status.PREAUTHORIZED, Status.PENDING, Status.REJECTED)
        device.status = next((s for s in strongest if s in present), Status.NOAUTH)
        if touch:
            device.updated = self._clock()
