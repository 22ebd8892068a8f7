"""What devices ask of the deployments service: the next update, statuses, logs, control maps.

The v1 calls exist on every server. v2 `next` exists only on hosted and enterprise servers; others
answer 404, and clients then use v1.
"""

import time
from collections.abc import Callable
from typing import Any

from mender_gateway.demo.apis.configuration import Configuration
from mender_gateway.demo.apis.deployments import (
    STATUSES,
    Aborted,
    Conflicting,
    Deployment,
    Deployments,
    DeviceDeployment,
)
from mender_gateway.demo.apis.front import NO_CONTENT, ApiError, Call, Reply, Routes
from mender_gateway.demo.apis.gotext import parse_timestamp, timestamp
from mender_gateway.demo.storage import Storage

_V1 = "/api/devices/v1/deployments/device/deployments"
_V2 = "/api/devices/v2/deployments/device/deployments"


class Polling:
    """The device routes of `Deployments`; artifacts are linked from `storage`."""

    def __init__(
        self,
        deployments: Deployments,
        configuration: Configuration,
        storage: Storage,
        routes: Routes,
        api_v2: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._deployments = deployments
        self._configuration = configuration
        self._storage = storage
        self._clock = clock
        self.api_v2 = api_v2
        """Whether v2 `next` and control maps exist, as on hosted and enterprise servers."""
        routes.add("GET", f"{_V1}/next", self.next_by_query)
        routes.add("POST", f"{_V1}/next", self.next_v1)
        routes.add("POST", f"{_V2}/next", self.next_v2)
        routes.add("GET", f"{_V2}/{{deployment}}/update_control_map", self.control_map)
        routes.add("PUT", f"{_V1}/{{deployment}}/status", self.status)
        routes.add("PUT", f"{_V1}/{{deployment}}/log", self.log)

    async def next_by_query(self, call: Call) -> Reply:
        return self._next(call, call.query)

    async def next_v1(self, call: Call) -> Reply:
        return self._next(call, await call.json("invalid schema: "))

    async def next_v2(self, call: Call) -> Reply:
        self._needs_v2()
        value = await call.json("invalid schema: ")
        provides = value.get("device_provides") if isinstance(value, dict) else None
        wants_map = isinstance(value, dict) and value.get("update_control_map") is True
        return self._next(call, provides or {}, wants_map)

    def _next(self, call: Call, asked: Any, wants_map: bool = False) -> Reply:
        values = asked if isinstance(asked, dict) else {}
        artifact_name, device_type = values.get("artifact_name"), values.get("device_type")
        blank = [n for n in ("artifact_name", "device_type") if not values.get(n)]
        if blank:
            raise ApiError(400, "; ".join(f"{name}: cannot be blank" for name in blank) + ".")
        try:
            found = self._deployments.next_for(call.device.id, str(device_type), str(artifact_name))
        except Conflicting:
            raise ApiError(409, "Device provided conflicting request data") from None
        if found is None:
            return NO_CONTENT
        deployment, record = found
        value = {
            "id": deployment.id,
            "artifact": self._artifact(call, deployment, record, str(device_type)),
        }
        if wants_map and deployment.control_map is not None:
            value["update_control_map"] = {"id": deployment.id, **deployment.control_map}
        return Reply.json(value)

    def _artifact(
        self, call: Call, deployment: Deployment, record: DeviceDeployment, device_type: str
    ) -> dict[str, object]:
        artifact = record.artifact
        if artifact is None:
            return self._configuration.offer(call, deployment, device_type)
        name = deployment.artifact_name
        expires = self._clock() + self._storage.link_life
        return {
            "id": artifact.id,
            "artifact_name": name,
            "source": {
                "uri": self._storage.link(artifact.id, f"{name}.mender"),
                "expire": timestamp(expires, 9),
                "method": "GET",
            },
            "device_types_compatible": list(artifact.info.device_types),
        }

    async def control_map(self, call: Call) -> Reply:
        self._needs_v2()
        deployment, _ = self._record(call)
        if deployment.control_map is None:
            return NO_CONTENT
        value = {"id": deployment.id, **deployment.control_map}
        return Reply.json({"update_control_map": value})

    async def status(self, call: Call) -> Reply:
        value = await call.json()
        status = value.get("status") if isinstance(value, dict) else None
        if status not in STATUSES:
            raise ApiError(400, f"invalid status for device '{status or ''}'")
        substate = str(value.get("substate") or "")
        try:
            self._deployments.report(call.params["deployment"], call.device.id, status, substate)
        except LookupError:
            raise ApiError(404, "Resource not found") from None
        except Aborted:
            raise ApiError(409, "Deployment aborted") from None
        return NO_CONTENT

    async def log(self, call: Call) -> Reply:
        value = await call.json()
        messages = value.get("messages") if isinstance(value, dict) else None
        if not isinstance(messages, list) or not messages:
            raise ApiError(400, "messages: cannot be blank.")
        lines = []
        for message in messages:
            try:
                when = parse_timestamp(message.get("timestamp"))
            except ValueError as error:
                raise ApiError(400, str(error)) from None
            shown = when.strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
            lines.append(f"{shown} {message.get('level')}: {message.get('message')}\n")
        _, record = self._record(call)
        record.log = "".join(lines)
        return NO_CONTENT

    def _record(self, call: Call) -> tuple[Deployment, DeviceDeployment]:
        try:
            return self._deployments.record(call.params["deployment"], call.device.id)
        except LookupError:
            raise ApiError(404, "Resource not found") from None

    def _needs_v2(self) -> None:
        if not self.api_v2:
            raise ApiError(404, "not found", bare=True)
