"""A site as it is in the field: real devices behind a real gateway, server and store beyond it.

Everything talks over loopback sockets; gateway and devices are processes. When a test has passed,
the gateway's log must hold no warning and no error but those that the test said it expects.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mender_gateway.demo.apis import tokens
from mender_gateway.demo.apis.deployments import FINISHED
from mender_gateway.demo.cloud import Cloud, CloudSettings, running
from mender_gateway.demo.exchanges import Exchange
from mender_gateway.demo.terminal import Terminal
from tests.support.device import MODULE, Device, write_artifact
from tests.support.gateway import GatewayProcess, start_gateway
from tests.support.pki import ServerPki, make_server_pki
from tests.support.ports import fixed_port

DEVICE_TYPE = "test-board"
SYSTEM_ID = "site-7"
MEGABYTE = 1 << 20

UPDATED = ["downloading", "downloading", "downloading", "installing", "installing", "success"]
"""What the real client reports of an update without a reboot."""

STATUS = "PUT */status"
NEXT_V1 = "* /api/devices/v1/deployments/device/deployments/next"
NEXT_V2 = "POST /api/devices/v2/deployments/device/deployments/next"
_ACCESS = re.compile(r"msg=request method=(\S+) path=(\S+) status=(\d+) bytes=(\d+) .*route=(\S+)")


@dataclass(frozen=True, slots=True)
class Release:
    name: str
    object: str
    """What storage calls it."""
    size: int
    """Bytes of the whole artifact."""
    payload: str
    """SHA-256 of the payload, which a device keeps of what it installed."""


@dataclass(frozen=True, slots=True)
class Access:
    """One line of the gateway's access log."""

    method: str
    path: str
    status: int
    bytes: int
    route: str


@dataclass
class Site:
    folder: Path
    cloud: Cloud
    url: str
    """The gateway as devices reach it, its GatewayURL."""
    own_url: str
    """Where it listens; the same unless something stands between."""
    pki: ServerPki
    config: dict[str, Any]
    stack: ExitStack
    devices: list[Device] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    """Patterns of the warnings and errors that the gateway may log."""
    _gateway: GatewayProcess | None = None

    # The gateway.

    @property
    def gateway(self) -> GatewayProcess:
        if self._gateway is None:
            raise RuntimeError("the gateway was not started")
        return self._gateway

    def start_gateway(self) -> None:
        """Starts it, for the first time or again after it ended; its listeners are open then."""
        self._gateway = start_gateway(self.folder / "gateway", self.config)

    def expect(self, pattern: str) -> None:
        """The gateway's log may hold warnings and errors that match."""
        self.expected.append(pattern)

    def connections(self) -> int:
        """Established connections between devices and the gateway's listener."""
        port = f":{int(self.own_url.rpartition(':')[2]):04X}"
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        fields = (line.split() for line in lines)
        return sum(local.endswith(port) and state == "01" for _, local, _, state, *_ in fields)

    def access_log(self, route: str = "") -> list[Access]:
        """The answered requests, in order; of one route if named."""
        found = (
            Access(method, path, int(status), int(size), name)
            for method, path, status, size, name in _ACCESS.findall(self.gateway.log)
        )
        return [access for access in found if route in ("", access.route)]

    def troubles(self, begin: int = 0) -> list[str]:
        """Unexpected warnings and errors behind the first `begin` characters of the log."""
        lines = self.gateway.log[begin:].splitlines()
        bad = [line for line in lines if "level=info" not in line and "level=debug" not in line]
        return [line for line in bad if not any(re.search(p, line) for p in self.expected)]

    # Devices.

    def device(self, name: str, *, server_url: str | None = None, **options: Any) -> Device:
        """Starts a device behind the gateway; it ends with the site."""
        device = self.prepare(name, server_url=server_url, **options)
        device.start()
        return device

    def prepare(self, name: str, *, server_url: str | None = None, **options: Any) -> Device:
        """A device that is not yet started."""
        url = server_url or self.url
        ca = self.pki.ca if url.startswith("https:") else None
        settings = {"device_type": DEVICE_TYPE, "ca": ca} | options
        device = Device(name, self.folder / name, url, **settings)
        self.stack.callback(device.stop)
        self.devices.append(device)
        return device

    def wait_polling(self, *devices: Device, timeout: float = 60.0) -> None:
        """Waits until each device was accepted, reported inventory, and asked for an update."""
        upstream = self.cloud.upstream

        def polls(device: Device) -> bool:
            if upstream.device(device.identity) is None:
                return False
            asked = self.requests_of(device, "*/deployments/next")
            answered = any(request.status in (200, 204) for request in asked)
            return answered and bool(upstream.inventory_of(device.identity))

        self.wait_each(devices, polls, "inventory and poll", timeout)

    def requests_of(self, device: Device, pattern: str) -> list[Exchange]:
        """What the server was asked with this device's tokens."""
        known = self.cloud.upstream.device(device.identity)
        found = self.cloud.upstream.requests_to(pattern)
        return [r for r in found if known is not None and _holder(r) == known.id]

    # Releases and deployments.

    def release(
        self,
        name: str,
        megabytes: int = 20,
        device_type: str = DEVICE_TYPE,
        module: str = MODULE,
    ) -> Release:
        """Builds an artifact and uploads it."""
        folder = self.folder / "releases"
        folder.mkdir(exist_ok=True)
        payload = folder / "payload.bin"
        payload.write_bytes(os.urandom(megabytes * MEGABYTE))
        path = folder / f"{name}-{device_type}.mender"
        write_artifact(path, name, device_type, payload, module)
        stored = self.cloud.upstream.add_artifact(path)
        digest = hashlib.sha256(payload.read_bytes()).hexdigest()
        return Release(name, stored, path.stat().st_size, digest)

    def deploy(self, release: Release | str, *devices: Device) -> str:
        name = release if isinstance(release, str) else release.name
        return self.cloud.upstream.deploy(name, [device.identity for device in devices])

    def outcome(self, deployment: str, device: Device) -> str:
        return self.cloud.upstream.outcome(deployment, device.identity)

    def statuses(self, deployment: str, device: Device) -> list[str]:
        return self.cloud.upstream.statuses(deployment, device.identity)

    def wait_outcome(
        self, deployment: str, *devices: Device, status: str = "success", timeout: float = 60.0
    ) -> None:
        """Waits until the deployment ended for these devices, which must be with `status`."""
        final = FINISHED | {status}
        self.wait_each(
            devices,
            lambda device: self.outcome(deployment, device) in final,
            "end of the deployment",
            timeout,
        )
        for device in devices:
            reached = self.outcome(deployment, device)
            assert reached == status, f"{device.name}: {reached}\n{self.describe()}"

    def wait_settled(self, *devices: Device, artifact: str, timeout: float = 30.0) -> None:
        """Waits until each device said in its inventory what is installed, and polled again."""
        told = {"artifact_name": artifact}.items()
        inventory = self.cloud.upstream.inventory_of
        self.wait_each(
            devices,
            lambda device: told <= inventory(device.identity).items(),
            f"inventory with {artifact}",
            timeout,
        )
        self.wait_next_poll(*devices, timeout=timeout)

    def wait_next_poll(self, *devices: Device, timeout: float = 30.0) -> None:
        """Waits until each device asked for an update once more."""
        polls = "*/deployments/next"
        before = {device.name: len(self.requests_of(device, polls)) for device in devices}
        self.wait_each(
            devices,
            lambda device: len(self.requests_of(device, polls)) > before[device.name],
            "further poll",
            timeout,
        )

    def assert_updated(
        self, deployment: str, release: Release, *devices: Device, timeout: float = 60.0
    ) -> None:
        """Each device runs the release and its statuses arrived once and in order."""
        self.wait_outcome(deployment, *devices, timeout=timeout)
        self.wait_settled(*devices, artifact=release.name)
        for device in devices:
            assert self.statuses(deployment, device) == UPDATED
            sent = self.requests_of(device, f"PUT */{deployment}/status")
            assert [r.status for r in sent] == [204] * len(UPDATED)
            assert device.installed == {"payload.bin": release.payload}

    # Terminals.

    def wait_connected(self, device: Device) -> None:
        """Waits until the server holds a WebSocket of the device's mender-connect."""
        upstream = self.cloud.upstream
        self.wait(lambda: upstream.connected(device.identity), "WebSocket of the device", 60)

    @contextmanager
    def shell(self, device: Device) -> Iterator[Terminal]:
        """A management session with a shell on the device that answers.

        About one in 150 shells of mender-connect 2.1 stays mute, with and without a gateway.
        """
        try:
            terminal = self._answering_shell(device) or self._answering_shell(device)
            assert terminal is not None, f"two shells in a row are mute\n{self.describe()}"
            with terminal:
                yield terminal
        except (TimeoutError, ConnectionError) as error:
            raise AssertionError(f"{error}\n{self.describe()}") from error

    def _answering_shell(self, device: Device) -> Terminal | None:
        self.wait_connected(device)
        terminal = self.cloud.upstream.terminal(device.identity)
        terminal.start_shell(timeout=30)
        terminal.type("echo ready=$((0 + 1))\n")
        try:
            terminal.read_until(b"ready=1", 15)
        except TimeoutError:
            with terminal:
                return None
        return terminal

    # Waiting.

    def wait(self, predicate: Callable[[], object], what: str, timeout: float = 30.0) -> None:
        """Waits until `predicate()`; AssertionError that shows logs otherwise."""
        try:
            self.cloud.upstream.wait_for(predicate, timeout)
        except TimeoutError:
            raise AssertionError(f"no {what} in time\n{self.describe()}") from None

    def wait_each(
        self,
        devices: Sequence[Device],
        predicate: Callable[[Device], object],
        what: str,
        timeout: float = 30.0,
    ) -> None:
        """The same for a predicate over each of the devices; the time is for all together."""
        deadline = time.monotonic() + timeout
        for device in devices:
            check = partial(predicate, device)
            self.wait(check, f"{what} of {device.name}", deadline - time.monotonic())

    def describe(self) -> str:
        """The ends of all logs."""
        parts = [f"--- gateway\n{self.gateway.log[-6000:]}"] if self._gateway else []
        for device in self.devices:
            parts += [f"--- {device.name}", device.log[-3000:], device.connect_log[-3000:]]
        return "\n".join(parts)


@contextmanager
def running_site(
    folder: Path,
    *,
    tls: bool = False,
    cache: bool = True,
    api_v2: bool = True,
    uplink: float | None = None,
    link_life: int = 24 * 3600,
    proxy: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    url: str | None = None,
) -> Iterator[Site]:
    """A site without devices yet. With `tls` every connection is, the server's and store's too.

    `uplink` in bits per second, `link_life` of storage links in seconds; `proxy` is merged into
    the section ArtifactsProxy, `limits` is the section Limits; `url` is GatewayURL where devices
    reach the gateway another way.
    """
    pki = make_server_pki(folder / "pki")
    context = pki.server_context() if tls else None
    settings = CloudSettings(
        uplink=uplink,
        api_v2=api_v2,
        accept_all=True,
        tls=context,
        storage_tls=context,
        link_life=link_life,
    )
    with running(settings) as cloud, ExitStack() as stack:
        port = fixed_port()
        own = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        config = _config(folder, cloud, pki, tls, port)
        artifacts: dict[str, Any] = {
            "Enabled": True,
            "GatewayURL": url or own,
            "DomainWhitelist": [cloud.storage.authority],
            "ArtifactsCache": {"Enabled": cache, "Path": str(folder / "cache")},
        }
        config["Features"]["ArtifactsProxy"] = _merged(artifacts, proxy or {})
        config["Limits"] = limits or {}
        site = Site(folder, cloud, url or own, own, pki, config, stack)
        site.start_gateway()
        stack.callback(_end_gateway, site)
        yield site
        assert not site.troubles(), site.describe()
        passed = len(site.gateway.log)
        stack.close()
        # A device that ends in the middle of a request is no trouble of the gateway's.
        site.expect(r"status=499|answer was cut off")
        assert not site.troubles(passed), site.describe()
        assert not cloud.upstream.server.failures
        assert not cloud.storage.server.failures


def _config(folder: Path, cloud: Cloud, pki: ServerPki, tls: bool, port: int) -> dict[str, Any]:
    upstream = {"URL": cloud.upstream.base}
    if tls:
        upstream["CACertificate"] = str(pki.ca)
    listener = {"Enabled": True, "Listen": f"127.0.0.1:{port}"}
    certificate = {"ServerCertificate": str(pki.certificate), "ServerKey": str(pki.key)}
    return {
        ("HTTPS" if tls else "HTTP"): listener | (certificate if tls else {}),
        "UpstreamServer": upstream,
        "Features": {"DeviceSystem": {"Enabled": True, "SystemID": SYSTEM_ID}},
    }


def _merged(into: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    merged = dict(into)
    for name, value in other.items():
        known = merged.get(name)
        if isinstance(known, dict) and isinstance(value, dict):
            value = _merged(known, value)
        merged[name] = value
    return merged


def _end_gateway(site: Site) -> None:
    """Ends the gateway, which must end by itself within its grace period, and cleanly."""
    gateway = site.gateway
    try:
        status = gateway.stop()
    finally:
        gateway.process.kill()
        gateway.process.wait()
    assert status == 0, (status, gateway.log[-4000:])


def _holder(exchange: Exchange) -> object:
    token = (exchange.header("authorization") or "").removeprefix("Bearer ")
    return (tokens.claims_of(token) or {}).get("sub")
