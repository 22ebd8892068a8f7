"""Where the soak happens: two gateways on one small cache directory, a store behind an uplink."""

import http.client
import json
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mender_gateway.demo.blobs import GeneratedBlob
from mender_gateway.demo.cloud import Cloud, CloudSettings, running
from tests.support.gateway import GatewayProcess, start_gateway
from tests.support.ports import fixed_port
from tests.support.scripted import Peer, requests, scripted_server

NEXT = "/api/devices/v2/deployments/device/deployments/next"
UPLINK = 80e6
"""Bits per second."""
ARTIFACTS = 24
DISK = 96
"""Mebibytes; less than half of what all artifacts take."""


@dataclass
class Gateway:
    """One of the two; `port` stays the same from life to life, so that devices find it again."""

    folder: Path
    config: dict[str, Any]
    port: int
    process: GatewayProcess
    lives: int = 1

    def start(self) -> None:
        self.process = start_gateway(self.folder, self.config)
        self.lives += 1

    def metrics(self) -> dict[str, float]:
        """Those without labels; raises OSError when it does not answer."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.process.ports["metrics"], timeout=20
        )
        try:
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        finally:
            connection.close()
        pairs = (line.split() for line in lines if not line.startswith("#") and "{" not in line)
        return {name: float(value) for name, value in pairs}

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.process.pid}/fd"))


@dataclass
class Place:
    folder: Path
    cloud: Cloud
    disk: Path
    """The file system that holds the cache, when it is one of its own."""
    mounted: bool
    gateways: list[Gateway]
    artifacts: dict[str, GeneratedBlob]
    paths: dict[str, str] = field(default_factory=dict)
    """The local link's path and query of each artifact."""

    @property
    def cache(self) -> Path:
        return self.disk / "cache"


@contextmanager
def small_disk(folder: Path) -> Iterator[tuple[Path, bool]]:
    """A small ext4 in a file where we may mount one, else a plain directory (False)."""
    mount = folder / "disk"
    mount.mkdir()
    image = folder / "disk.img"
    mounted = False
    if os.geteuid() == 0:
        with image.open("wb") as file:
            file.truncate(DISK << 20)
        commands = (["mkfs.ext4", "-q", "-m", "0", str(image)], ["mount", "-o", "loop", str(image)])
        commands[1].append(str(mount))
        mounted = all(subprocess.run(c, capture_output=True).returncode == 0 for c in commands)
    try:
        yield mount, mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(mount)], check=True)
        image.unlink(missing_ok=True)


@contextmanager
def place(folder: Path, luck: random.Random) -> Iterator[Place]:
    offered: dict[str, bytes] = {}

    def upstream(peer: Peer) -> None:
        for head, _ in requests(peer):
            body = offered.get("next", b"") if b"/deployments/next" in head else b""
            status = b"200 OK" if body else b"404 Not Found"
            peer.send(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    with ExitStack() as stack:
        cloud = stack.enter_context(running(CloudSettings(uplink=UPLINK)))
        server = stack.enter_context(scripted_server(upstream))
        disk, mounted = stack.enter_context(small_disk(folder))
        artifacts = {
            f"artifact-{n:02}": GeneratedBlob(luck.randrange(3 << 20, 15 << 20), n)
            for n in range(ARTIFACTS)
        }
        cached: dict[str, Any] = {
            "Enabled": True,
            "Path": str(disk / "cache"),
            "SignatureSecret": "c29hayBzb2FrIHNvYWsgc29hayBzb2FrIHNvYWs=",
            "MinFreeSpace": "4MiB",
            "ScrubInterval": "20s",
        }
        if not mounted:
            cached["MaxSize"] = f"{DISK - 8}MiB"
        gateways: list[Gateway] = []
        made = Place(folder, cloud, disk, mounted, gateways, artifacts)
        for number in range(2):
            port = fixed_port()
            config = {
                "HTTP": {"Enabled": True, "Listen": f"127.0.0.1:{port}"},
                "Metrics": {"Enabled": True, "Listen": "127.0.0.1:0"},
                "UpstreamServer": {"URL": server.url},
                "Limits": {"UpstreamIdle": "2s", "KeepAlive": "5s", "ShutdownGrace": "2s"},
                "Features": {
                    "ArtifactsProxy": {
                        "Enabled": True,
                        "GatewayURL": "http://gateway.test",
                        "DomainWhitelist": ["127.0.0.1"],
                        "ArtifactsCache": cached,
                    }
                },
            }
            where = folder / f"gateway-{number}"
            gateways.append(Gateway(where, config, port, start_gateway(where, config)))
        for name, blob in artifacts.items():
            cloud.storage.put(name, blob)
            made.paths[name] = _link(made, offered, name)
        try:
            yield made
        finally:
            for gateway in gateways:
                if gateway.process.process.poll() is None:
                    gateway.process.stop()


def _link(made: Place, offered: dict[str, bytes], name: str) -> str:
    url = made.cloud.storage.link(name)
    document = {"id": name, "artifact": {"artifact_name": name, "source": {"uri": url}}}
    offered["next"] = json.dumps(document).encode()
    connection = http.client.HTTPConnection("127.0.0.1", made.gateways[0].port, timeout=20)
    try:
        connection.request("POST", NEXT, b"{}")
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    uri: str = answer["artifact"]["source"]["uri"]
    return uri.removeprefix("http://gateway.test")
