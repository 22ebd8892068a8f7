"""Devices with certificates, a gateway that authorises them, and the server behind it."""

import json
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mender_gateway.demo.apis.devauth import Generation
from mender_gateway.demo.cloud import Cloud, CloudSettings, running
from mender_gateway.demo.keys import signature
from mender_gateway.demo.upstream import Upstream
from tests.mtls.gateways import write_roots
from tests.support.authority import Issued, PrivateKey, authority, issue, new_key
from tests.support.gateway import GatewayProcess, running_gateway
from tests.support.pki import make_server_pki
from tests.support.ports import fixed_port
from tests.support.scripted import Peer, connect

AUTH = "/api/devices/v1/authentication/auth_requests"
DEVICES = "/api/management/v2/devauth/devices"
LOGIN = "/api/management/v1/useradm/auth/login"


def auth_body(identity: Any, pubkey: str) -> bytes:
    """As the real client writes it, final newline included."""
    text = json.dumps(identity)
    body = {"id_data": text, "tenant_token": "", "pubkey": pubkey}
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


def post(body: bytes, *fields: str) -> bytes:
    lines = [f"POST {AUTH} HTTP/1.1", "Host: gateway", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


PATIENCE = 120.0
"""Seconds: a thousand devices at once wait for their turn, as would real ones."""


@dataclass
class Device:
    """`key` signs auth requests; by default it is the certificate's."""

    identity: dict[str, Any]
    certificate: Issued
    key: PrivateKey
    fields: tuple[str, ...] = ()

    @property
    def pubkey(self) -> str:
        return Issued(self.certificate.certificate, self.key).public_pem

    @property
    def body(self) -> bytes:
        return auth_body(self.identity, self.pubkey)

    def request(self, body: bytes | None = None, signer: PrivateKey | None = None) -> bytes:
        body = self.body if body is None else body
        signed = signature(signer or self.key, body)
        return post(body, f"X-Men-Signature: {signed}", *self.fields)


@dataclass
class Fleet:
    gateway: GatewayProcess
    cloud: Cloud
    root: Issued
    folder: Path
    made: int = 0
    contexts: dict[int, ssl.SSLContext] = field(default_factory=dict)

    @property
    def upstream(self) -> Upstream:
        return self.cloud.upstream

    def device(self, name: str | None = None, key: PrivateKey | None = None) -> Device:
        self.made += 1
        name = name or f"device-{self.made}"
        own = new_key("p256")
        return Device({"mac": name}, issue(name, self.root, key=own), key or own)

    def context(self, certificate: Issued) -> ssl.SSLContext:
        if certificate.serial not in self.contexts:
            name = f"{certificate.serial:x}"
            self.contexts[certificate.serial] = certificate.context(self.folder / "devices", name)
        return self.contexts[certificate.serial]

    def connect(self, device: Device) -> Peer:
        return connect(self.gateway.ports["https"], self.context(device.certificate))

    def send(self, device: Device, request: bytes) -> tuple[int, bytes, bytes]:
        """Status, head and body of the answer to one request."""
        peer = self.connect(device)
        with peer.sock:
            peer.sock.settimeout(PATIENCE)
            peer.send(request)
            return peer.answer()

    def authenticate(self, device: Device) -> int:
        return self.send(device, device.request())[0]

    def status(self, device: Device) -> str | None:
        """The device's status at the server."""
        found = self.upstream.device(device.identity)
        return str(found.status) if found else None

    def management(self) -> list[str]:
        """The management calls that the gateway has made, in order."""
        return [
            f"{each.method} {each.path.removeprefix('/api/management/')}"
            for each in self.upstream.requests_to("/api/management/*")
        ]

    def outcomes(self, outcome: str) -> float:
        """How many auth requests came to this."""
        with urllib.request.urlopen(self.gateway.url("metrics") + "/metrics", timeout=20) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f'mender_gateway_auth_requests_total{{outcome="{outcome}"}} '):
                    return float(line.rpartition(" ")[2])
        return 0.0


@contextmanager
def running_fleet(
    folder: Path,
    generation: Generation = "4.1",
    other: dict[str, Any] | None = None,
    *,
    cache: bool = False,
    **settings: Any,
) -> Iterator[Fleet]:
    """`settings` go into Features.mTLS; None takes one away. `cache`: artifacts come through it."""
    root = authority("Root")
    pki = make_server_pki(folder / "server")
    with running(CloudSettings(generation=generation)) as cloud:
        mtls = {
            "Enabled": True,
            "CACertificate": write_roots(folder / "roots.pem", root),
            "MenderUsername": cloud.upstream.user,
            "MenderPassword": cloud.upstream.password,
            **settings,
        }
        features: dict[str, Any] = {
            "mTLS": {key: value for key, value in mtls.items() if value is not None}
        }
        port = fixed_port() if cache else 0
        if cache:
            features["ArtifactsProxy"] = {
                "Enabled": True,
                "GatewayURL": f"https://127.0.0.1:{port}",
                "DomainWhitelist": [cloud.storage.authority],
                "ArtifactsCache": {"Enabled": True, "Path": str(folder / "cache")},
            }
        config = {
            "HTTPS": {
                "Enabled": True,
                "Listen": f"127.0.0.1:{port}",
                "ServerCertificate": str(pki.certificate),
                "ServerKey": str(pki.key),
            },
            "Metrics": {"Enabled": True, "Listen": "127.0.0.1:0"},
            "UpstreamServer": {"URL": cloud.upstream.base},
            "Features": features,
            **(other or {}),
        }
        with running_gateway(folder, config) as gateway:
            yield Fleet(gateway, cloud, root, folder)
