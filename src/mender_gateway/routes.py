"""What a request is, by its path: the only place with URL patterns.

Decisions are made on a normalised copy of the target, only the raw bytes are forwarded. When raw
and normalised path mean different routes, somebody tries to be two things at once: 400.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING

from mender_gateway.artifacts.deployments import Deployments
from mender_gateway.artifacts.download import Downloads
from mender_gateway.artifacts.reports import Reports
from mender_gateway.artifacts.signing import LINK_PREFIX
from mender_gateway.devices.handler import Inventory
from mender_gateway.errors import BadRequest, Forbidden, MethodNotAllowed, NotFound
from mender_gateway.http.exchange import Exchange
from mender_gateway.http.target import normalise, reads_as_internal, tolerant_readings
from mender_gateway.proxy.forward import PLAIN, Forwarder, Manner
from mender_gateway.proxy.shares import Shares
from mender_gateway.proxy.tunnel import Tunnels, opens_tunnel

if TYPE_CHECKING:
    from mender_gateway.devices.provisioning import Provisioning

_EXACT = {
    b"/api/devices/v1/authentication/auth_requests": "auth",
    b"/api/devices/v1/inventory/device/attributes": "inventory",
    b"/api/devices/v2/deployments/device/deployments/next": "next",
    b"/api/devices/v1/deployments/device/deployments/next": "next",
    b"/api/devices/v1/deviceconnect/connect": "connect",
    b"/api/internal/v1/gateway/alive": "alive",
    b"/api/internal/v1/gateway/health": "health",
}
_DEPLOYMENT = re.compile(
    rb"/api/devices/v[12]/deployments/device/deployments/[^/]+/(status|log|update_control_map)"
)
_DEPLOYMENT_PREFIXES = (
    b"/api/devices/v1/deployments/device/deployments/",
    b"/api/devices/v2/deployments/device/deployments/",
)
_CONFIGURATION = b"/api/devices/v1/deployments/download/"
_PREFIXES = (
    (_CONFIGURATION, "configuration"),
    (b"/api/devices/", "devices"),
    (b"/api/management/", "management"),
    (LINK_PREFIX, "artifact"),
)
_OURS = frozenset({*_EXACT.values(), "status", "log", "update_control_map", "artifact"})
"""Routes on which more is done than forwarding; no disguise may avoid it."""
_NEXT_METHODS = {
    b"/api/devices/v1/deployments/device/deployments/next": (b"GET", b"POST"),
    b"/api/devices/v2/deployments/device/deployments/next": (b"POST",),
}

_REPEATABLE = Manner(repeatable=True)
_DOWNLOAD = Manner(download=True)


def route_of(path: bytes) -> str:
    """The name of the route that `path` belongs to; one of a bounded set."""
    name = _EXACT.get(path)
    if name is not None:
        return name
    if path.startswith(_DEPLOYMENT_PREFIXES):
        match = _DEPLOYMENT.fullmatch(path)
        if match is not None:
            return match[1].decode()
    if reads_as_internal(path):
        return "internal"
    for prefix, name in _PREFIXES:
        if path.startswith(prefix):
            return name
    return "other"


type_of_health = Callable[[], Awaitable[tuple[str, str] | None]]
"""What is wrong, for everybody and in detail for the log, or None."""


@dataclass(slots=True)
class Router:
    """Answers every exchange of the devices' listeners."""

    forwarder: Forwarder
    shares: Shares
    tunnels: Tunnels
    health: type_of_health
    deployments: Deployments | None = None
    downloads: Downloads | None = None
    reports: Reports | None = None
    inventory: Inventory | None = None
    provisioning: "Provisioning | None" = None

    async def handle(self, exchange: Exchange) -> None:
        request = exchange.request
        path = normalise(request.target)
        name = exchange.route = route_of(path)
        raw = request.target.partition(b"?")[0]
        if raw != path and route_of(raw) != name:
            raise BadRequest("the path means different things raw and normalised")
        for reading in tolerant_readings(raw):
            if reading != path and (other := route_of(reading)) != name and other in _OURS:
                raise BadRequest("the path may mean different things here and at the server")
        if request.method == b"CONNECT":
            raise MethodNotAllowed
        match name:
            case "alive" | "health" | "internal":
                await self._internal(exchange, name)
            case "artifact":
                if self.downloads is None:
                    raise NotFound("ArtifactsProxy is not enabled")
                await self.downloads.download(exchange)
            case "next" if self.deployments and request.method in _NEXT_METHODS[path]:
                await self.deployments.next(exchange)
            case "auth" if self.provisioning and request.method == b"POST":
                await self.provisioning.authenticate(exchange)
            case "status" if self.reports and request.method == b"PUT":
                await self.reports.status(exchange, path)
            case "inventory" if self.inventory and request.method in (b"PUT", b"PATCH"):
                await self.inventory.report(exchange)
            case _:
                await self._forward(exchange, name)

    async def handle_probe(self, exchange: Exchange) -> None:
        """For the plain listener beside mutual TLS: alive and health, all else is refused."""
        name = exchange.route = route_of(normalise(exchange.request.target))
        if name not in ("alive", "health"):
            raise Forbidden("this listener serves no devices: mutual TLS is required")
        await self._internal(exchange, name)

    async def handle_own(self, exchange: Exchange) -> None:
        """For the metrics listener, beside the metrics: alive and health, there is nothing else."""
        name = exchange.route = route_of(normalise(exchange.request.target))
        if name not in ("alive", "health"):
            raise NotFound("there is nothing here but /metrics and the probes")
        await self._internal(exchange, name)

    async def _forward(self, exchange: Exchange, name: str) -> None:
        request = exchange.request
        if request.upgrade and opens_tunnel(request):
            await self.tunnels.tunnel(exchange)
            return
        manner = PLAIN
        match name, request.method:
            case (
                (("status" | "log"), b"PUT")
                | ("next", b"POST")
                | ("auth", b"POST")
                | ("inventory", (b"PUT" | b"PATCH"))
            ):
                manner = _REPEATABLE
            case "configuration", _:
                manner = _DOWNLOAD
        await self.shares.take(exchange.peer)
        try:
            await self.forwarder.forward(exchange, manner)
        finally:
            self.shares.give_back(exchange.peer)

    async def _internal(self, exchange: Exchange, name: str) -> None:
        if name == "internal":
            raise NotFound
        if exchange.request.method not in (b"GET", b"HEAD"):
            raise MethodNotAllowed
        fault = await self.health() if name == "health" else None
        if fault is None:
            await exchange.respond(204)
        else:
            reason, exchange.fault = fault
            body = b'{"reason":%b}' % quoted(reason).encode()
            await exchange.respond(503, [(b"Content-Type", b"application/json")], body)
