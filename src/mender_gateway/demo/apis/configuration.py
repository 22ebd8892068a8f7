"""Device configuration, and the artifacts made on demand for its deployments.

The link to such an artifact is on the server's own host, as the request that asks for it names
that host (X-Forwarded-Host, else Host) unless one is configured; an HMAC over method, path and
expiry makes it valid for a quarter of an hour, on any host and without a token.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from urllib.parse import quote

from mender_gateway.demo.apis.deployments import Deployment, Deployments
from mender_gateway.demo.apis.front import NO_CONTENT, ApiError, Call, Reply, Routes
from mender_gateway.demo.apis.gotext import parse_timestamp, timestamp
from mender_gateway.demo.artifact import configuration_artifact

LINK_LIFE = 15 * 60
"""Seconds."""

_DOWNLOAD = "/api/devices/v1/deployments/download/configuration"
_MANAGED = "/api/management/v1/deviceconfig/configurations/device/{device}"
_DEVICE = "/api/devices/v1/deviceconfig/configuration"


class Configuration:
    """Configured and reported settings by device, and their deployments."""

    def __init__(
        self,
        deployments: Deployments,
        routes: Routes,
        scheme: str,
        host: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.scheme, self.host = scheme, host
        """Of the links; without a host it is the request's."""
        self._deployments = deployments
        self._clock = clock
        self._key = hashlib.sha256(b"demo configuration links").digest()
        self._configured: dict[str, tuple[dict[str, str], float]] = {}
        self._reported: dict[str, tuple[dict[str, str], float]] = {}
        self._deployed: dict[str, str] = {}
        routes.add("GET", _MANAGED, self.get)
        routes.add("PUT", _MANAGED, self.put)
        routes.add("POST", _MANAGED + "/deploy", self.deploy)
        routes.add("GET", _DEVICE, self.get_own)
        routes.add("PUT", _DEVICE, self.report)
        routes.add("GET", _DOWNLOAD + "/{deployment}/{type}/{device}", self.download)

    def configure(self, device_id: str, settings: Mapping[str, str]) -> str:
        """Sets a device's configuration and deploys it; returns the deployment's id."""
        self._configured[device_id] = (dict(settings), self._clock())
        return self._deploy(device_id)

    def _deploy(self, device_id: str) -> str:
        settings = self._configured.get(device_id, ({}, 0.0))[0]
        name = f"configuration of {device_id}"
        deployment = self._deployments.create(name, "", [device_id], settings=settings)
        self._deployed[device_id] = deployment.id
        return deployment.id

    def offer(self, call: Call, deployment: Deployment, device_type: str) -> dict[str, object]:
        """The `artifact` member of a poll's answer."""
        expires = self._clock() + LINK_LIFE
        request, device = call.request, call.device.id
        host = self.host or request.header("x-forwarded-host") or request.header("host") or ""
        path = f"{_DOWNLOAD}/{deployment.id}/{quote(device_type, safe='')}/{device}"
        expire = timestamp(int(expires), 0)
        signature = self._signature(path, expire)
        query = f"x-men-expire={quote(expire, safe='')}&x-men-signature={signature}"
        return {
            "id": f"{deployment.id}{device}",
            "artifact_name": deployment.artifact_name,
            "source": {
                "uri": f"{self.scheme}://{host}{path}?{query}",
                "expire": timestamp(expires, 9),
            },
            "device_types_compatible": [device_type],
        }

    async def download(self, call: Call) -> Reply:
        query = call.query
        missing = [n for n in ("x-men-expire", "x-men-signature") if n not in query]
        if missing:
            text = "; ".join(f"{name}: required key is missing" for name in missing)
            raise ApiError(400, f"invalid request parameters: {text}.")
        try:
            expires = parse_timestamp(query["x-men-expire"]).timestamp()
        except ValueError as error:
            raise ApiError(400, f"invalid request parameters: {error}") from None
        if self._clock() >= expires:
            raise ApiError(403, "URL expired")
        wanted = self._signature(call.request.path, query["x-men-expire"])
        if not hmac.compare_digest(wanted, query["x-men-signature"]):
            raise ApiError(403, "signature invalid")
        deployment = self._deployments.deployments.get(call.params["deployment"])
        if deployment is None or deployment.settings is None:
            raise ApiError(404, "Resource not found")
        body = configuration_artifact(
            deployment.artifact_name, call.params["type"], deployment.settings
        )
        headers = (
            ("Content-Disposition", 'attachment; filename="artifact.mender"'),
            ("Content-Type", "application/vnd.mender-artifact"),
        )
        return Reply(200, body, headers, fixed=True)

    def _signature(self, path: str, expire: str) -> str:
        text = f"GET\n{path}\n{expire}\n"
        raw = hmac.digest(self._key, text.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    async def get(self, call: Call) -> Reply:
        device = call.params["device"]
        configured, updated = self._configured.get(device, ({}, self._clock()))
        view: dict[str, object] = {"id": device, "configured": configured}
        reported, reported_at = self._reported.get(device, ({}, 0.0))
        view["reported"] = reported
        if device in self._deployed:
            view["deployment_id"] = self._deployed[device]
        view["updated_ts"] = timestamp(updated)
        if device in self._reported:
            view["reported_ts"] = timestamp(reported_at)
        return Reply.json(view)

    async def put(self, call: Call) -> Reply:
        self._configured[call.params["device"]] = (await _settings(call), self._clock())
        return NO_CONTENT

    async def deploy(self, call: Call) -> Reply:
        await call.json()
        return Reply.json({"deployment_id": self._deploy(call.params["device"])})

    async def get_own(self, call: Call) -> Reply:
        return Reply.json(self._configured.get(call.device.id, ({}, 0.0))[0])

    async def report(self, call: Call) -> Reply:
        self._reported[call.device.id] = (await _settings(call), self._clock())
        return NO_CONTENT


async def _settings(call: Call) -> dict[str, str]:
    value = await call.json()
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise ApiError(400, "invalid request body: a map of strings is wanted")
    return value
