"""One machine as a whole site: the cloud, the slow uplink and the gateway, ready for devices.

The cloud runs in a thread of its own, the gateway in a process of its own; everything they write
lies in one temporary directory, which goes when the site does.
"""

import asyncio
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mender_gateway.demo.artifact import ArtifactFile, write_artifact
from mender_gateway.demo.blobs import BytesBlob, GeneratedBlob
from mender_gateway.demo.certificates import Authority, serving
from mender_gateway.demo.cloud import Cloud, CloudSettings, running
from mender_gateway.demo.process import GatewayFailed, GatewayProcess, free_port

DEVICE_TYPE = "demo-board"
RELEASE = "demo-release-1"
START_ATTEMPTS = 3
"""A port that was free may be taken a moment later."""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """`size` in bytes of the artifact's payload, `uplink` in bits per second."""

    devices: int = 10
    size: int = 20_000_000
    uplink: float = 20_000_000.0
    https: bool = False

    @property
    def deadline(self) -> float:
        """Seconds that a rollout may take: several times the ideal, and time for each device."""
        return 60.0 + 4 * self.size * 8 / self.uplink + 2.0 * self.devices


@dataclass(frozen=True, slots=True)
class Site:
    """Everything but the devices, running."""

    plan: FleetPlan
    cloud: Cloud
    gateway: GatewayProcess
    url: str
    ca: Path | None
    tls: ssl.SSLContext | None
    artifact: ArtifactFile


@contextmanager
def _directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mender-gateway-demo-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def site(plan: FleetPlan, phase: Callable[[str], None]) -> AsyncIterator[Site]:
    """Starts cloud and gateway; ends both and removes every file on leaving.

    `phase` is told what begins. `GatewayFailed` when the gateway does not start.
    """
    with _directory() as directory:
        phase("making the artifact")
        artifact = await asyncio.to_thread(_make_artifact, directory, plan.size)
        authority = Authority(directory) if plan.https else None
        hosts = ["127.0.0.1", "localhost"]
        files = authority.issue("server", hosts) if authority else None
        server_tls = serving(files) if files else None
        settings = CloudSettings(
            uplink=plan.uplink, accept_all=True, tls=server_tls, storage_tls=server_tls
        )
        phase("starting the server and its store")
        with running(settings) as cloud:
            cloud.upstream.add_artifact(artifact.path)
            phase("starting the gateway")
            gateway, url = await _start_gateway(directory, cloud, authority)
            async with _stopping(gateway):
                yield Site(
                    plan,
                    cloud,
                    gateway,
                    url,
                    authority.certificate if authority else None,
                    authority.trusting_context() if authority else None,
                    artifact,
                )


@asynccontextmanager
async def _stopping(gateway: GatewayProcess) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await gateway.__aexit__()


async def _start_gateway(
    directory: Path, cloud: Cloud, authority: Authority | None
) -> tuple[GatewayProcess, str]:
    """The running gateway and its URL; the port is chosen beforehand, for GatewayURL needs it."""
    for attempt in range(START_ATTEMPTS):
        scheme = "https" if authority else "http"
        url = f"{scheme}://127.0.0.1:{free_port()}"
        gateway = GatewayProcess(directory, configuration(directory, cloud, url, authority))
        try:
            await gateway.__aenter__()
        except GatewayFailed:
            if attempt == START_ATTEMPTS - 1:
                raise
            continue
        return gateway, url
    raise GatewayFailed("unreachable")


def configuration(
    directory: Path, cloud: Cloud, url: str, authority: Authority | None
) -> dict[str, Any]:
    """The gateway's configuration file: artifacts proxied and cached, metrics on."""
    listen = url.partition("://")[2]
    cache = {"Enabled": True, "Path": str(directory / "cache")}
    value: dict[str, Any] = {
        "UpstreamServer": {"URL": cloud.upstream.base},
        "Features": {
            "ArtifactsProxy": {
                "Enabled": True,
                "GatewayURL": url,
                "DomainWhitelist": [cloud.storage.authority],
                "ArtifactsCache": cache,
            }
        },
        "Metrics": {"Enabled": True, "Listen": "127.0.0.1:0"},
        "StateDir": str(directory / "state"),
    }
    if authority is None:
        value["HTTP"] = {"Enabled": True, "Listen": listen}
        return value
    value["UpstreamServer"]["CACertificate"] = str(authority.certificate)
    value["HTTPS"] = {
        "Enabled": True,
        "Listen": listen,
        "ServerCertificate": str(directory / "server.crt"),
        "ServerKey": str(directory / "server.key"),
    }
    return value


def _make_artifact(directory: Path, size: int) -> ArtifactFile:
    """A release that the real client's module for single files installs too."""
    return write_artifact(
        directory / "release.mender",
        name=RELEASE,
        device_types=[DEVICE_TYPE],
        files={
            "dest_dir": BytesBlob(b"/var/tmp\n"),
            "filename": BytesBlob(b"mender-demo-payload\n"),
            "permissions": BytesBlob(b"644\n"),
            "mender-demo-payload": GeneratedBlob(size),
        },
    )
