"""A gateway with mutual TLS in front of a server that takes everything, for tests of the gate."""

import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.support.authority import Issued
from tests.support.gateway import GatewayProcess, running_gateway
from tests.support.pki import make_server_pki
from tests.support.scripted import Peer, ScriptedServer, connect, requests, scripted_server

REQUEST = b"GET /api/devices/v1/x HTTP/1.1\r\nHost: gateway\r\n\r\n"
ALIVE = b"GET /api/internal/v1/gateway/alive HTTP/1.1\r\nHost: gateway\r\n\r\n"


def answer_everything(peer: Peer) -> None:
    """A tunnel, where one is asked for, gives back what goes in."""
    for head, _ in requests(peer):
        if b"upgrade: websocket" in head.lower():
            peer.send(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\n\r\n"
            )
            while data := peer.read_some():
                peer.send(data)
            return
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")


@dataclass
class Guarded:
    gateway: GatewayProcess
    upstream: ScriptedServer
    folder: Path

    def context(self, device: Issued, version: Any = None) -> ssl.SSLContext:
        return device.context(self.folder / "clients", f"client-{device.serial:x}", version)

    def connect(self, device: Issued, version: Any = None) -> Peer:
        """A connection that has shown the device's certificate."""
        return connect(self.gateway.ports["https"], self.context(device, version))

    def ask(self, device: Issued, version: Any = None) -> int | None:
        """The status of a request of that device; None when it is not let in."""
        context = self.context(device, version)
        try:
            peer = connect(self.gateway.ports["https"], context)
        except OSError:
            return None
        try:
            return ask(peer)
        finally:
            peer.close()


def ask(peer: Peer) -> int | None:
    """The status of one more request on a connection; None when the connection ends."""
    try:
        peer.send(REQUEST)
        return peer.answer()[0]
    except (OSError, EOFError):
        return None


class HasGateway(Protocol):
    gateway: GatewayProcess


def metric(guard: HasGateway, name: str) -> float:
    """A figure of the gateway, 0 while it has none of that name."""
    with urllib.request.urlopen(guard.gateway.url("metrics") + "/metrics", timeout=20) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
    return 0.0


def refused(guard: HasGateway, reason: str) -> float:
    """How many clients were not let in for this reason."""
    return metric(guard, f'mender_gateway_tls_handshake_failures_total{{reason="{reason}"}}')


def cut_off(peer: Peer) -> bool:
    """Wait for the end of a connection on which nothing is asked."""
    try:
        return peer.read_some() == b""
    except OSError:
        return True


def write_roots(path: Path, *roots: Issued) -> str:
    path.write_bytes(b"".join(root.pem for root in roots))
    return str(path)


@contextmanager
def guarded(
    folder: Path,
    roots: list[Issued],
    https: dict[str, Any] | None = None,
    other: dict[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Guarded]:
    """`settings` go into Features.mTLS, `https` into HTTPS, `other` beside them."""
    pki = make_server_pki(folder / "server")
    with scripted_server(answer_everything) as upstream:
        config = {
            "HTTP": {"Enabled": True, "Listen": "127.0.0.1:0"},
            "HTTPS": {
                "Enabled": True,
                "Listen": "127.0.0.1:0",
                "ServerCertificate": str(pki.certificate),
                "ServerKey": str(pki.key),
                **(https or {}),
            },
            "Metrics": {"Enabled": True, "Listen": "127.0.0.1:0"},
            "UpstreamServer": {"URL": upstream.url},
            "Features": {
                "mTLS": {
                    "Enabled": True,
                    "CACertificate": write_roots(folder / "roots.pem", *roots),
                    **settings,
                }
            },
            **(other or {}),
        }
        with running_gateway(folder, config) as gateway:
            yield Guarded(gateway, upstream, folder)
