"""The ground of a case: a temporary folder, certificates, the upstream, and the contenders.

Everything listens on loopback, on ports chosen at the start, and ends with the case.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import certificates
from benchmarks.certificates import Certificates
from benchmarks.processes import Server
from benchmarks.rounds import Scale
from benchmarks.servers import caddy, gateway, nginx

NEXT = "/api/devices/v2/deployments/device/deployments/next"
INVENTORY = "/api/devices/v1/inventory/device/attributes"
PLAIN = "/api/devices/v1/deviceconfig/configuration"
_SMALL = '{"timezone":"Europe/Berlin","log_level":"info","interval":"300"}'

TOKEN = ".".join(("eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9", "e" * 280, "s" * 86))
"""As long as a device's JWT."""

HEADERS = {
    "Authorization": f"Bearer {TOKEN}",
    "User-Agent": "Go-http-client/1.1",
    "Accept-Encoding": "gzip",
}
"""What every request of a device carries."""


@dataclass(slots=True)
class Site:
    """Owns what a case starts; `scale` says how much is measured."""

    folder: Path
    scale: Scale
    certificates: Certificates
    stack: ExitStack

    @property
    def workers(self) -> tuple[int, ...]:
        """One worker, and as many as there are processors; only one in a quick run."""
        count = os.cpu_count() or 1
        return (1,) if self.scale.quick or count == 1 else (1, count)

    @contextmanager
    def part(self, name: str) -> Iterator["Site"]:
        """A part of the case with a folder and an end of its own."""
        with ExitStack() as stack:
            folder = self.folder / name
            folder.mkdir()
            yield Site(folder, self.scale, self.certificates, stack)

    def upstream(self, link: str | None = None) -> Server:
        """nginx that answers like a server, at once; `link` is the artifact's in `next`."""
        answers = {"/": _SMALL, INVENTORY: ""}
        if link is not None:
            answers[NEXT] = instructions(link)
        return self.stack.enter_context(nginx.upstream(self.folder / "upstream", answers))

    def ours(
        self,
        upstream: Server,
        *,
        storage: str | None = None,
        mutual: bool = False,
        limits: dict[str, int] | None = None,
    ) -> Server:
        """The gateway as shipped; `limits` go into its section Limits."""
        return self.stack.enter_context(
            gateway.gateway(
                self.folder / "ours",
                upstream.url(),
                self.certificates,
                storage=storage,
                mutual=mutual,
                limits=limits,
            )
        )

    def peers(
        self,
        upstream: Server,
        kinds: Sequence[str] = ("nginx", "caddy"),
        *,
        files: Path | None = None,
        mutual: bool = False,
        workers: Sequence[int] = (),
    ) -> list[Server]:
        """Each kind with each number of workers, the scale's where none is given."""
        modules = {"nginx": nginx.peer, "caddy": caddy.peer}
        address = f"127.0.0.1:{upstream.ports['http']}"
        found = []
        for kind in kinds:
            for count in workers or self.workers:
                name = named(kind, count)
                folder = self.folder / f"{kind}-{count}"
                peer = modules[kind](
                    folder,
                    count,
                    address,
                    self.certificates,
                    files=files,
                    mutual=mutual,
                    name=name,
                )
                found.append(self.stack.enter_context(peer))
        return found


def named(kind: str, workers: int) -> str:
    """What tables call a peer: `nginx`, or `nginx x2` with two workers."""
    return kind if workers == 1 else f"{kind} x{workers}"


def instructions(link: str) -> str:
    """Deployment instructions as a server sends them."""
    document = {
        "id": "c5a3a6c6-92b1-4c5f-9a2e-4f0b9d8a1c11",
        "artifact": {
            "artifact_name": "release-2",
            "source": {"uri": link, "expire": "2035-01-01T00:00:00Z"},
            "device_types_compatible": ["demo-board"],
        },
    }
    return json.dumps(document, separators=(",", ":"))


@contextmanager
def site(scale: Scale) -> Iterator[Site]:
    """A site for one case."""
    with TemporaryDirectory(prefix="mender-gateway-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        yield Site(folder, scale, certificates.make(folder / "pki"), stack)
