"""The embedded upstream: a Mender Server in one object, over real sockets.

It wires the services of `apis` to one HTTP server and one store, and offers tests and the demo
what an administrator does, without HTTP. Every method may be called from any thread.
"""

import asyncio
import shutil
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mender_gateway.demo.answers import Answer
from mender_gateway.demo.apis.authentication import Authentication
from mender_gateway.demo.apis.configuration import Configuration
from mender_gateway.demo.apis.deployments import Deployment, Deployments, DeviceDeployment
from mender_gateway.demo.apis.devauth import Device, DeviceAuth, Generation
from mender_gateway.demo.apis.deviceconnect import DeviceConnect
from mender_gateway.demo.apis.front import Front, Routes
from mender_gateway.demo.apis.inventory import Inventory
from mender_gateway.demo.apis.polling import Polling
from mender_gateway.demo.apis.releases import Releases
from mender_gateway.demo.apis.useradm import UserAdministration
from mender_gateway.demo.crossing import on_loop
from mender_gateway.demo.exchanges import Exchange
from mender_gateway.demo.faults import Behaviour, Rule
from mender_gateway.demo.storage import Storage
from mender_gateway.demo.terminal import Terminal
from mender_gateway.demo.wire import Request, WireServer


class Upstream:
    """The server. `start` opens the first listener; `close` ends everything."""

    def __init__(
        self,
        storage: Storage,
        *,
        generation: Generation = "4.1",
        api_v2: bool = False,
        accept_all: bool = False,
        link_scheme: str = "http",
        link_host: str | None = None,
        user: str = "admin@example.com",
        password: str = "demo-password",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`api_v2`: v2 `next` exists, as on hosted and enterprise servers. `accept_all`: new
        devices are accepted at once. `link_*`: of configuration links, whose host is the
        request's unless given."""
        self.storage = storage
        self.server = WireServer(self._answer)
        self.base = ""
        """Scheme and authority of the listener opened last."""
        self.user, self.password = user, password
        self.devauth = DeviceAuth(generation, accept_all, clock)
        self.deployments = Deployments(clock)
        self._directory = Path(tempfile.mkdtemp(prefix="mender-demo-upstream-"))
        routes = Routes()
        self._front = Front(routes, self.devauth, clock)
        self.users = UserAdministration(user, password, routes, clock)
        self.configuration = Configuration(self.deployments, routes, link_scheme, link_host, clock)
        self.inventory = Inventory(self.devauth, routes, clock)
        self.polling = Polling(self.deployments, self.configuration, storage, routes, api_v2, clock)
        self.releases = Releases(self.deployments, self.devauth, storage, self._directory, routes)
        self.deviceconnect = DeviceConnect(self.devauth, routes, self.server.log, clock)
        Authentication(self.devauth, routes)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("the upstream was not started")
        return self._loop

    async def start(
        self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        """Opens a listener."""
        self._loop = asyncio.get_running_loop()
        port = await self.server.listen(host, port, tls)
        shown = f"[{host}]" if ":" in host else host
        self.base = f"{'https' if tls else 'http'}://{shown}:{port}"

    async def close(self) -> None:
        await self.server.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _answer(self, request: Request) -> Answer:
        """The store is reachable under its bucket's path too, as behind one front."""
        if request.path.startswith(f"/{self.storage.bucket}/"):
            return await self.storage.answer(request)
        return await self._front.answer(request)

    # What was asked, and what is to go wrong.

    @property
    def requests(self) -> list[Exchange]:
        """Everything this server was asked, in order of arrival."""
        return self.server.log.matching()

    def requests_to(self, pattern: str) -> list[Exchange]:
        """Those that fit, e.g. "PUT */status" (`Exchange.matches`)."""
        return self.server.log.matching(pattern)

    def script(
        self,
        matcher: str | Callable[[Exchange], bool],
        behaviour: Behaviour,
        times: int | None = 1,
    ) -> Rule:
        """Misbehave for the next `times` requests that fit (None: for all); see `faults`."""
        return self.server.script.add(matcher, behaviour, times)

    def wait_for(self, predicate: Callable[[], object], timeout: float = 10.0) -> None:
        """Blocks the calling thread (not the loop's) until `predicate()`; else `TimeoutError`."""
        self.server.log.wait_for(predicate, timeout)

    # Devices.

    @on_loop
    def device(self, identity: Mapping[str, object]) -> Device | None:
        """The device of that identity; `status` and `auth_sets` are live."""
        return self.devauth.find(identity)

    @on_loop
    def devices(self) -> list[Device]:
        return self.devauth.devices()

    @on_loop
    def set_status(self, identity: Mapping[str, object], status: str, newest: bool = True) -> None:
        """An administrator accepts or rejects a device's newest (or oldest) auth set."""
        device = self._known(identity)
        auth_set = device.auth_sets[-1 if newest else 0]
        self.devauth.set_status(device.id, auth_set.id, status)

    @on_loop
    def revoke_tokens(self, identity: Mapping[str, object] | None = None) -> None:
        """The tokens of one device or of all are refused from now on."""
        self.devauth.revoke_tokens(None if identity is None else self._known(identity).id)

    @on_loop
    def inventory_of(self, identity: Mapping[str, object]) -> dict[str, Any]:
        """What the device reported: value by name."""
        return self.inventory.of(self._known(identity).id)

    @on_loop
    def user_token(self) -> str:
        """A management token, as a login yields."""
        return self.users.token()

    # Releases.

    @on_loop
    def add_artifact(self, path: Path) -> str:
        """Takes an artifact file into the store; the file stays where it is. Returns its id."""
        return self.releases.add(path).id

    @on_loop
    def deploy(
        self,
        artifact_name: str,
        devices: Sequence[Mapping[str, object]],
        control_map: Mapping[str, object] | None = None,
    ) -> str:
        """A deployment to the devices of those identities; returns its id."""
        targets = [self._known(identity).id for identity in devices]
        name = f"to {len(targets)} devices"
        return self.deployments.create(name, artifact_name, targets, control_map=control_map).id

    @on_loop
    def configure(self, identity: Mapping[str, object], settings: Mapping[str, str]) -> str:
        """A configuration deployment to one device; returns its id."""
        return self.configuration.configure(self._known(identity).id, settings)

    @on_loop
    def abort(self, deployment: str) -> None:
        self.deployments.abort(deployment)

    @on_loop
    def deployment(self, deployment: str) -> Deployment:
        return self.deployments.deployments[deployment]

    @on_loop
    def statuses(self, deployment: str, identity: Mapping[str, object]) -> list[str]:
        """Every status the device reported for it, in order of arrival."""
        record = self._record(deployment, identity)
        return list(record.history) if record else []

    @on_loop
    def outcome(self, deployment: str, identity: Mapping[str, object]) -> str:
        """The status in force: "pending" before the device's first word."""
        record = self._record(deployment, identity)
        return record.status if record else "pending"

    @on_loop
    def log_of(self, deployment: str, identity: Mapping[str, object]) -> str | None:
        record = self._record(deployment, identity)
        return record.log if record else None

    # Terminals.

    @on_loop
    def connected(self, identity: Mapping[str, object]) -> bool:
        """Whether the device holds a WebSocket open."""
        device = self.devauth.find(identity)
        return device is not None and device.id in self.deviceconnect.devices

    def terminal(self, identity: Mapping[str, object]) -> Terminal:
        """A management session with a connected device, for a thread outside the loop."""
        device = self.device(identity)
        if device is None:
            raise LookupError(f"no device {dict(identity)}")
        return Terminal(self.loop, self.deviceconnect, device.id)

    def _known(self, identity: Mapping[str, object]) -> Device:
        device = self.devauth.find(identity)
        if device is None:
            raise LookupError(f"no device {dict(identity)}")
        return device

    def _record(self, deployment: str, identity: Mapping[str, object]) -> DeviceDeployment | None:
        device = self.devauth.find(identity)
        found = self.deployments.deployments[deployment]
        record = found.devices.get(device.id) if device else None
        return replace(record) if record else None
