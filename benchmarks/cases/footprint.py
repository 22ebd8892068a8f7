"""What the gateway takes when it does nothing, and how soon it answers after its start."""

import http.client
import time
from pathlib import Path

from benchmarks.artifact import MIB, fill, local_target, stored
from benchmarks.cases.api import chunked
from benchmarks.figures import Check, Figure, Result, Series
from benchmarks.load import wrk
from benchmarks.processes import Server
from benchmarks.rounds import in_turns
from benchmarks.site import HEADERS, INVENTORY, NEXT, PLAIN, Site

_REQUESTS = 10_000
_IDLE = 3.0
_SERVERS = 3


def idle(site: Site) -> Result:
    """Polls, inventories, ranges and forwarded requests, plain and TLS; then nothing."""
    artifact = stored(site, MIB)
    upstream = site.upstream(link=artifact.link)
    server = site.ours(upstream, storage=artifact.authority)
    target = local_target(server)
    fill(server, target, artifact)
    fresh = server.resident()
    script = wrk.written(site.folder, "mixed", _mixed(target))
    done = 0
    while done < _REQUESTS:
        for scheme in ("http", "https"):
            done += wrk.drive(server.url(scheme), script, connections=32, seconds=1).requests
    time.sleep(_IDLE)
    figure = Figure(
        "idle", "MB resident", Series("ours", (server.resident() / 1e6,)), better="lower"
    )
    loaded = sum(_maps_cryptography(pid) for pid in server.pids())
    checks = (
        Check("idle", figure.ours.median, 60.0, at_least=False),
        Check("processes with cryptography loaded", loaded, 0, at_least=False),
    )
    notes = (f"after {done:,} requests; {fresh / 1e6:.1f} MB after the first download",)
    return Result("idle", (figure,), checks, notes)


def start(site: Site) -> Result:
    """From exec to the first answer to a forwarded request."""
    upstream = site.upstream()

    def measure(index: int) -> float:
        return _started(site, upstream, index)

    ours, nginx, caddy = in_turns(_SERVERS, site.scale.rounds, measure)
    figure = Figure(
        "start",
        "seconds",
        Series("ours", tuple(ours)),
        (Series("nginx", tuple(nginx)), Series("caddy", tuple(caddy))),
        better="lower",
    )
    return Result("start", (figure,), (Check("start", figure.ours.median, 0.4, at_least=False),))


def _started(site: Site, upstream: Server, index: int) -> float:
    with site.part(f"start-{time.monotonic_ns()}") as ground:
        began = time.monotonic()
        match index:
            case 0:
                server = ground.ours(upstream)
            case 1:
                server = ground.peers(upstream, ("nginx",), workers=(1,))[0]
            case _:
                server = ground.peers(upstream, ("caddy",), workers=(1,))[0]
        connection = http.client.HTTPConnection("127.0.0.1", server.ports["http"], timeout=10)
        try:
            connection.request("GET", PLAIN)
            connection.getresponse().read()
        finally:
            connection.close()
        return time.monotonic() - began


def _mixed(target: str) -> list[bytes]:
    fields = "".join(f"{name}: {text}\r\n" for name, text in HEADERS.items())

    def get(path: str, more: str = "") -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n".encode()

    return [
        get(PLAIN, fields),
        chunked(b"POST", NEXT, b'{"artifact_name":"release-1"}'),
        chunked(b"PATCH", INVENTORY, b'[{"name":"kernel","value":"6.1"}]'),
        get(target, "Range: bytes=2048-4095\r\n"),
        get("/api/internal/v1/gateway/alive"),
    ]


def _maps_cryptography(pid: int) -> bool:
    return "cryptography" in Path(f"/proc/{pid}/maps").read_text(errors="replace")
