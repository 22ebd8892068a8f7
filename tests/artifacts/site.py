"""A gateway between a device and a store, with a scripted upstream that hands out one link."""

import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mender_gateway.demo.cloud import CloudSettings, running
from mender_gateway.demo.storage import Storage
from tests.support.gateway import GatewayProcess, start_gateway
from tests.support.scripted import Peer, requests, scripted_server

NEXT = "/api/devices/v2/deployments/device/deployments/next"
TIMEOUT = 30.0


@dataclass
class Site:
    folder: Path
    storage: Storage
    upstream_url: str
    offered: dict[str, Any]
    """The upstream's next answer: `status` and `body`."""
    settings: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)
    """The gateway's section Limits."""
    upstream_settings: dict[str, Any] = field(default_factory=dict)
    """More of the section UpstreamServer."""
    reports: list[bytes] = field(default_factory=list)
    """Bodies of the status reports that the upstream has got."""
    gateway: GatewayProcess = None  # type: ignore[assignment]

    def start(self, **changes: Any) -> None:
        """Start the gateway; `changes` go into Features.ArtifactsProxy."""
        proxy = {
            "Enabled": True,
            "GatewayURL": "http://gateway.test:8080",
            "DomainWhitelist": ["127.0.0.1"],
            **self.settings,
            **changes,
        }
        self.gateway = start_gateway(
            self.folder,
            {
                "HTTP": {"Enabled": True, "Listen": "127.0.0.1:0"},
                "Metrics": {"Enabled": True, "Listen": "127.0.0.1:0"},
                "UpstreamServer": {"URL": self.upstream_url, **self.upstream_settings},
                "Limits": self.limits,
                "Features": {"ArtifactsProxy": proxy},
            },
        )

    def offer(self, url: str) -> None:
        """Let the upstream's deployment instructions name `url`."""
        document = {
            "id": "deployment-1",
            "artifact": {
                "artifact_name": "release-1",
                "source": {"uri": url, "expire": "2030-01-01T00:00:00Z"},
                "device_types_compatible": ["type-1"],
            },
        }
        self.offered.update(status=200, body=json.dumps(document).encode())

    def poll(self, method: str = "POST", path: str = NEXT) -> tuple[int, bytes]:
        status, _, body = self.request(method, path, body=b"{}" if method == "POST" else None)
        return status, body

    def link(self, url: str) -> str:
        """The local path and query that a device is given for a storage link."""
        self.offer(url)
        status, body = self.poll()
        assert status == 200
        uri: str = json.loads(body)["artifact"]["source"]["uri"]
        prefix = "http://gateway.test:8080"
        assert uri.startswith(prefix + "/"), uri
        return uri.removeprefix(prefix)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.gateway.ports["http"], timeout=TIMEOUT)

    def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def get(
        self, path: str, wanted: str | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        return self.request("GET", path, {"Range": wanted} if wanted else None)

    def metric(self, name: str) -> float:
        """The value of a metric without labels; 0 when it is not there yet."""
        parts = urlsplit(self.gateway.url("metrics"))
        connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT)
        try:
            connection.request("GET", "/metrics")
            for line in connection.getresponse().read().decode().splitlines():
                if line.startswith(name + " "):
                    return float(line.split()[1])
        finally:
            connection.close()
        return 0.0

    def restart(self, **changes: Any) -> None:
        assert self.gateway.stop() == 0
        self.start(**changes)


@contextmanager
def running_site(
    folder: Path,
    *,
    cache: bool,
    start: bool = True,
    limits: dict[str, str] | None = None,
    cloud_settings: CloudSettings | None = None,
    **settings: Any,
) -> Iterator[Site]:
    """A site whose gateway is running; `cache` with the artifact cache."""
    offered: dict[str, Any] = {"status": 204, "body": b""}

    def upstream(peer: Peer) -> None:
        for head, body in requests(peer):
            if b"/status HTTP" in head:
                site.reports.append(body)
                peer.send(b"HTTP/1.1 %d No Content\r\n\r\n" % offered.get("report", 204))
            elif b"/deployments/next" not in head:
                peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            elif offered["status"] == 204:
                peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            else:
                peer.send(
                    b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%b"
                    % (offered["status"], len(offered["body"]), offered["body"])
                )

    with ExitStack() as stack:
        cloud = stack.enter_context(running(cloud_settings))
        server = stack.enter_context(scripted_server(upstream))
        cached = {"Enabled": cache, "Path": str(folder / "cache"), **settings.pop("cached", {})}
        site = Site(folder, cloud.storage, server.url, offered)
        site.limits = limits or {}
        site.settings = {"ArtifactsCache": cached, **settings}
        if start:
            site.start()
        try:
            yield site
        finally:
            if site.gateway is not None and site.gateway.process.poll() is None:
                site.gateway.stop()
        assert "internal error" not in site.gateway.log, site.gateway.log[-4000:]
