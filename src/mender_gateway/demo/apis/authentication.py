"""Device authentication over HTTP: auth requests of devices, and what administrators do."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from mender_gateway.demo.apis.devauth import Conflict, DeviceAuth, Refused, normalised_key
from mender_gateway.demo.apis.front import NO_CONTENT, ApiError, Call, Reply, Routes
from mender_gateway.demo.apis.gotext import from_json
from mender_gateway.demo.keys import decoded

_DEVICES = "/api/management/v2/devauth/devices"


class Authentication:
    """The routes of `DeviceAuth`."""

    def __init__(self, devauth: DeviceAuth, routes: Routes) -> None:
        self._devauth = devauth
        routes.add("POST", "/api/devices/v1/authentication/auth_requests", self.auth_request)
        routes.add("GET", _DEVICES, self.list_devices)
        routes.add("POST", _DEVICES, self.preauthorise)
        routes.add("GET", _DEVICES + "/{device}", self.get_device)
        routes.add("DELETE", _DEVICES + "/{device}", self.decommission)
        routes.add("DELETE", _DEVICES + "/{device}/auth/{set}", self.remove_set)
        routes.add("PUT", _DEVICES + "/{device}/auth/{set}/status", self.set_status)

    async def auth_request(self, call: Call) -> Reply:
        media = (call.request.header("content-type") or "application/json").partition(";")[0]
        if media.strip().lower() != "application/json":
            raise ApiError(415, "Bad Content-Type, expected 'application/json'")
        body = await call.body()
        identity, pubkey = _auth_request(body)
        given = call.request.header("X-MEN-Signature")
        if not given:
            raise ApiError(400, "missing request signature header")
        token = self._devauth.authenticate(identity, pubkey, body, decoded(given))
        if token is None:
            raise ApiError(401, "dev auth: unauthorized")
        return Reply(200, token.encode(), (("Content-Type", "application/jwt"),))

    async def list_devices(self, call: Call) -> Reply:
        query = {"page": "1", "per_page": "20"} | call.query
        try:
            page, size = int(query["page"]), int(query["per_page"])
        except ValueError:
            raise ApiError(400, "Can't parse param page") from None
        status = query.get("status")
        found = [d for d in self._devauth.devices() if status in (None, d.status)]
        start = (page - 1) * size
        links = [_page_link(query, 1, "first")]
        if page > 1:
            links.append(_page_link(query, page - 1, "prev"))
        if len(found) > start + size:
            links.append(_page_link(query, page + 1, "next"))
        shown = [device.as_json() for device in found[start : start + size]]
        return Reply.json(shown, 200, *(("Link", link) for link in links))

    async def get_device(self, call: Call) -> Reply:
        device = self._devauth.device(call.params["device"])
        if device is None:
            raise ApiError(404, "device not found")
        return Reply.json(device.as_json())

    async def preauthorise(self, call: Call) -> Reply:
        prefix = "failed to decode preauth request: "
        value = await call.json(prefix)
        identity = value.get("identity_data") if isinstance(value, dict) else None
        if not isinstance(identity, dict) or not identity:
            raise ApiError(400, f"{prefix}identity_data: cannot be blank.")
        try:
            pubkey = normalised_key(value.get("pubkey"))
        except ValueError as error:
            raise ApiError(400, f"{prefix}{error}") from None
        try:
            device_id = self._devauth.preauthorise(identity, pubkey, value.get("force") is True)
        except Conflict as conflict:
            return Reply.json(conflict.device.as_json(with_sets=False), 409)
        return Reply(201, headers=(("Location", f"devices/{device_id}"),))

    async def set_status(self, call: Call) -> Reply:
        value = await call.json("failed to decode status data: ")
        status = value.get("status") if isinstance(value, dict) else None
        try:
            self._devauth.set_status(call.params["device"], call.params["set"], str(status))
        except LookupError:
            raise ApiError(404, "authorization set not found") from None
        except Refused as refused:
            raise ApiError(400, str(refused)) from None
        return NO_CONTENT

    async def remove_set(self, call: Call) -> Reply:
        if not self._devauth.remove_set(call.params["device"], call.params["set"]):
            raise ApiError(404, "authorization set not found")
        return NO_CONTENT

    async def decommission(self, call: Call) -> Reply:
        if not self._devauth.decommission(call.params["device"]):
            raise ApiError(404, "device not found")
        return NO_CONTENT


def _auth_request(body: bytes) -> tuple[Mapping[str, object], str]:
    """Identity and key of an auth request's body."""
    try:
        value: Any = from_json(body)
    except ValueError as error:
        text = "unexpected end of JSON input" if str(error).endswith("EOF") else str(error)
        raise ApiError(400, f"failed to decode auth request: {text}") from None
    prefix = "invalid auth request: "
    if not isinstance(value, dict) or not value.get("id_data"):
        raise ApiError(400, f"{prefix}id_data must be provided")
    if not value.get("pubkey"):
        raise ApiError(400, f"{prefix}pubkey must be provided")
    try:
        pubkey = normalised_key(value["pubkey"])
    except ValueError as error:
        raise ApiError(400, f"{prefix}{error}") from None
    try:
        identity = from_json(str(value["id_data"]).encode())
    except ValueError:
        identity = None
    if not isinstance(identity, dict) or not identity:
        raise ApiError(400, "dev auth: bad request")
    return identity, pubkey


def _page_link(query: Mapping[str, str], page: int, relation: str) -> str:
    text = urlencode(sorted((dict(query) | {"page": str(page)}).items()))
    return f'<{_DEVICES}?{text}>; rel="{relation}"'
