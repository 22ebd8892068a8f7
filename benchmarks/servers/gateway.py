"""The gateway as it is shipped: its own command line, a configuration file, all features on.

Both listeners, links rewritten, artifacts cached, inventory completed, metrics served; the log at
`warn`, as a busy site would have it.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.certificates import Certificates
from benchmarks.processes import Server, free_port, running


def configuration(
    folder: Path,
    upstream: str,
    certificates: Certificates,
    ports: dict[str, int],
    storage: str | None,
    mutual: bool,
    limits: dict[str, int],
) -> dict[str, Any]:
    """`storage` is the authority of the artifact store, `upstream` the server's URL."""
    features: dict[str, Any] = {
        "DeviceSystem": {
            "Enabled": True,
            "SystemID": "site-7",
            "DefaultInventory": [{"Name": "site", "Value": "north"}],
        },
        "ArtifactsProxy": {
            "Enabled": True,
            "GatewayURL": f"https://127.0.0.1:{ports['https']}",
            "DomainWhitelist": [storage or "storage.invalid"],
            "ArtifactsCache": {"Enabled": True, "Path": str(folder / "cache")},
        },
    }
    if mutual:
        features["mTLS"] = {"Enabled": True, "CACertificate": str(certificates.device_ca)}
    return {
        "StateDir": str(folder / "state"),
        "HTTP": {"Enabled": True, "Listen": f"127.0.0.1:{ports['http']}"},
        "HTTPS": {
            "Enabled": True,
            "Listen": f"127.0.0.1:{ports['https']}",
            "ServerCertificate": str(certificates.server.certificate),
            "ServerKey": str(certificates.server.key),
        },
        "Metrics": {"Enabled": True, "Listen": f"127.0.0.1:{ports['metrics']}"},
        "UpstreamServer": {"URL": upstream},
        "Features": features,
        "Limits": limits,
    }


def command(folder: Path, settings: dict[str, Any]) -> list[str]:
    """Writes the configuration file; what starts the gateway with it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mender-gateway.conf"
    path.write_text(json.dumps(settings, indent=2))
    path.chmod(0o600)
    program = str(Path(sys.executable).with_name("mender-gateway"))
    return [program, "--config", str(path), "--log-level", "warn"]


@contextmanager
def gateway(
    folder: Path,
    upstream: str,
    certificates: Certificates,
    *,
    storage: str | None = None,
    mutual: bool = False,
    limits: dict[str, int] | None = None,
) -> Iterator[Server]:
    ports = {name: free_port() for name in ("http", "https", "metrics")}
    settings = configuration(folder, upstream, certificates, ports, storage, mutual, limits or {})
    with running("ours", command(folder, settings), folder, ports) as server:
        yield server
