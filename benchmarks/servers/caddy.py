"""Caddy as a peer: Go's ReverseProxy and file server. One worker means GOMAXPROCS=1."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.certificates import Certificates
from benchmarks.processes import Server, free_port, running
from benchmarks.tools import need


def configuration(
    upstream: str,
    certificates: Certificates,
    ports: dict[str, int],
    files: Path | None,
    mutual: bool,
) -> dict[str, Any]:
    """Forwards everything to `upstream` (host:port), but serves what is under /files/."""
    policy: dict[str, Any] = {"fallback_sni": "localhost", "default_sni": "localhost"}
    if mutual:
        policy["client_authentication"] = {
            "mode": "require_and_verify",
            "ca": {"provider": "file", "pem_files": [str(certificates.device_ca)]},
        }
    forward = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": upstream}],
        "transport": {
            "protocol": "http",
            "keep_alive": {"max_idle_conns_per_host": 256, "idle_timeout": "600s"},
        },
    }
    routes: list[dict[str, Any]] = []
    if files is not None:
        serve = [
            {"handler": "rewrite", "strip_path_prefix": "/files"},
            {"handler": "file_server", "root": str(files)},
        ]
        routes.append({"match": [{"path": ["/files/*"]}], "handle": serve, "terminal": True})
    routes.append({"handle": [forward]})
    certificate = {
        "certificate": str(certificates.server.certificate),
        "key": str(certificates.server.key),
    }

    def server(port: int, **more: Any) -> dict[str, Any]:
        return {
            "listen": [f"127.0.0.1:{port}"],
            "routes": routes,
            "automatic_https": {"disable": True},
            "protocols": ["h1", "h2"],
            "strict_sni_host": False,
            **more,
        }

    return {
        "admin": {"disabled": True, "config": {"persist": False}},
        "logging": {"logs": {"default": {"level": "ERROR"}}},
        "apps": {
            "http": {
                "servers": {
                    "plain": server(ports["http"]),
                    "tls": server(ports["https"], tls_connection_policies=[policy]),
                }
            },
            "tls": {"certificates": {"load_files": [certificate]}},
        },
    }


@contextmanager
def peer(
    folder: Path,
    workers: int,
    upstream: str,
    certificates: Certificates,
    *,
    files: Path | None = None,
    mutual: bool = False,
    name: str = "caddy",
) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    ports = {"http": free_port(), "https": free_port()}
    path = folder / "caddy.json"
    path.write_text(json.dumps(configuration(upstream, certificates, ports, files, mutual)))
    environment = {
        "GOMAXPROCS": str(workers),
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder / "data"),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    command = [need("caddy"), "run", "--config", str(path)]
    with running(name, command, folder, ports, environment) as server:
        yield server
