"""The server's view of devices, and what the gateway may change in it: preauthorise and accept.

`force` is never sent: it would revive devices that an administrator rejected, and kill tokens in
use. Each call carries whose request it is made for. A refused token leads to one new login.
"""

from urllib.parse import quote

import msgspec

from mender_gateway.http.message import type_of_fields
from mender_gateway.management.calls import Calls, Reply, Unavailable
from mender_gateway.management.login import Forbids, Login, NotAllowed
from mender_gateway.observe.log import Log

_DEVICES = "/api/management/v2/devauth/devices"
_TROUBLE = frozenset({429, 500, 502, 503, 504})


class AuthSet(msgspec.Struct, frozen=True):
    """One public key of a device; `status` accepted, preauthorized, pending or rejected."""

    id: str
    pubkey: str
    status: str


class Device(msgspec.Struct, frozen=True):
    id: str
    status: str
    auth_sets: tuple[AuthSet, ...] | None = None


class Refusal(Exception):
    """The server says that a request makes no sense to it, in its own words."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"the server answers {reply.status}: {reply.text}")


class DeviceAuthentication:
    """The calls of `devauth` that a gateway needs."""

    def __init__(self, calls: Calls, login: Login, log: Log) -> None:
        self._calls = calls
        self._login = login
        self._log = log

    async def preauthorise(self, identity: str, pubkey: str, origin: type_of_fields) -> str | None:
        """None when a new device was made; else the id of the device that has this identity.

        `identity` is JSON text, `pubkey` PEM. Raises NotAllowed, Unavailable, Refusal.
        """
        body = b'{"identity_data":%b,"pubkey":%b}' % (
            identity.encode(),
            msgspec.json.encode(pubkey),
        )
        reply = await self._call(b"POST", _DEVICES, origin, body)
        if reply.status == 201:
            return None
        if reply.status == 409:
            return _decode(reply).id
        raise Refusal(reply)

    async def device(self, device_id: str, origin: type_of_fields) -> Device | None:
        """The device with its keys; None when it is gone. Raises as `preauthorise`."""
        reply = await self._call(b"GET", f"{_DEVICES}/{quote(device_id, '')}", origin)
        if reply.status == 200:
            return _decode(reply)
        if reply.status == 404:
            return None
        raise Refusal(reply)

    async def accept(self, device_id: str, set_id: str, origin: type_of_fields) -> bool:
        """Accept one key of a device; False when the server knows it no more, or otherwise.

        Raises as `preauthorise`.
        """
        path = f"{_DEVICES}/{quote(device_id, '')}/auth/{quote(set_id, '')}/status"
        reply = await self._call(b"PUT", path, origin, b'{"status":"accepted"}')
        if reply.status == 204:
            return True
        if reply.status in (400, 404):
            return False
        raise Refusal(reply)

    async def _call(
        self, method: bytes, path: str, origin: type_of_fields, body: bytes = b""
    ) -> Reply:
        for _ in range(2):
            token = await self._login.token(origin)
            fields = [*origin, (b"Authorization", b"Bearer " + token.encode())]
            fields.append((b"Accept", b"application/json"))
            if body:
                fields.append((b"Content-Type", b"application/json"))
            reply = await self._calls.send(method, path.encode(), fields, body)
            if reply.status != 401:
                break
            self._login.refused(token)
        else:
            raise NotAllowed("the server refuses the management token")
        self._login.worked(token)
        if reply.status == 403:
            self._log.once_per(
                60.0,
                "management forbidden",
                "error",
                "devices cannot be authorised: the management user may not do that",
                advice="give the user the permission to manage devices",
                answer=reply.text,
            )
            raise Forbids("the management user may not authorise devices")
        if reply.status in _TROUBLE:
            after = reply.index.get(b"retry-after", b"")
            seconds = min(3600, int(after)) if after.isdigit() and len(after) < 9 else None
            raise Unavailable(f"the server answers {reply.status}", seconds)
        return reply


def _decode(reply: Reply) -> Device:
    try:
        return msgspec.json.decode(reply.body, type=Device)
    except msgspec.DecodeError as error:
        raise Unavailable(f"the server's answer is no device: {error}") from error
