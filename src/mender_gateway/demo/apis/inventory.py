"""The inventory: what devices report about themselves, and the management's view of it."""

import time
from collections.abc import Callable
from typing import Any

from mender_gateway.demo.apis.devauth import Device, DeviceAuth
from mender_gateway.demo.apis.front import ApiError, Call, Reply, Routes
from mender_gateway.demo.apis.gotext import kind_of, timestamp

_DEVICE = "/api/devices/v1/inventory/device/attributes"


class Inventory:
    """Attributes by device and name, in the order they were first sent."""

    def __init__(
        self, devauth: DeviceAuth, routes: Routes, clock: Callable[[], float] = time.time
    ) -> None:
        self._devauth = devauth
        self._clock = clock
        self._attributes: dict[str, dict[str, dict[str, Any]]] = {}
        self._updated: dict[str, float] = {}
        routes.add("PUT", _DEVICE, self.replace)
        routes.add("PATCH", _DEVICE, self.patch)
        routes.add("GET", "/api/management/v1/inventory/devices", self.list_devices)
        routes.add("GET", "/api/management/v1/inventory/devices/{device}", self.get_device)

    def of(self, device_id: str) -> dict[str, Any]:
        """What the device reported: value by name."""
        return {name: a["value"] for name, a in self._attributes.get(device_id, {}).items()}

    async def replace(self, call: Call) -> Reply:
        attributes = await _attributes(call)
        self._attributes[call.device.id] = attributes
        return self._updated_reply(call.device)

    async def patch(self, call: Call) -> Reply:
        attributes = await _attributes(call)
        self._attributes.setdefault(call.device.id, {}).update(attributes)
        return self._updated_reply(call.device)

    def _updated_reply(self, device: Device) -> Reply:
        self._updated[device.id] = self._clock()
        return Reply(200)

    async def list_devices(self, call: Call) -> Reply:
        shown = [self._view(device) for device in self._devauth.devices()]
        return Reply.json(shown, 200, ("X-Total-Count", str(len(shown))))

    async def get_device(self, call: Call) -> Reply:
        device = self._devauth.device(call.params["device"])
        if device is None:
            raise ApiError(404, "Not found")
        return Reply.json(self._view(device))

    def _view(self, device: Device) -> dict[str, object]:
        updated = timestamp(self._updated.get(device.id, device.updated))
        attributes = [
            *(_attribute(name, value, "identity") for name, value in device.identity.items()),
            _attribute("created_ts", timestamp(device.created), "system"),
            _attribute("status", device.status, "identity"),
        ]
        if device.checked_in is not None:
            attributes.append(_attribute("check_in_time", timestamp(device.checked_in), "system"))
        reported = self._attributes.get(device.id, {}).values()
        attributes.extend(attribute | {"scope": "inventory"} for attribute in reported)
        attributes.append(_attribute("updated_ts", updated, "system"))
        return {"id": device.id, "attributes": attributes, "updated_ts": updated}


def _attribute(name: str, value: object, scope: str) -> dict[str, object]:
    return {"name": name, "value": value, "scope": scope}


async def _attributes(call: Call) -> dict[str, dict[str, Any]]:
    """The attributes of a body by name; 400 for what is no list of named values."""
    prefix = "failed to decode request body: "
    value = await call.json(prefix)
    if value is None:
        value = []
    if not isinstance(value, list):
        raise ApiError(400, f"{prefix}{_mismatch(value, '[]model.DeviceAttribute')}")
    found: dict[str, dict[str, Any]] = {}
    for item in value:
        if not isinstance(item, dict):
            raise ApiError(400, f"{prefix}{_mismatch(item, 'model.DeviceAttribute')}")
        if not item.get("name"):
            raise ApiError(400, "name: cannot be blank.")
        if not _is_plain(item.get("value")):
            text = "supported types are string, float64, and arrays thereof"
            raise ApiError(400, f"value: {text}.")
        known = ("name", "description", "value")
        found[item["name"]] = {member: item[member] for member in known if member in item}
    return found


def _mismatch(value: object, wanted: str) -> str:
    return f"json: cannot unmarshal {kind_of(value)} into Go value of type {wanted}"


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_plain(v) and not isinstance(v, list) for v in value)
    return isinstance(value, str | int | float) and not isinstance(value, bool)
