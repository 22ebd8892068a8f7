"""Small requests while downloads saturate the machine: latency, and what the downloads still get.

Sixteen TLS connections download 64 MiB over and over; beside them eight ask for small JSON, one
request after the other. Here the clock on the wall counts, not CPU time.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.artifact import MIB
from benchmarks.cases.hits import holders
from benchmarks.figures import Check, Figure, Result, Series, check_name
from benchmarks.load import wrk
from benchmarks.processes import Server
from benchmarks.rounds import in_turns
from benchmarks.site import HEADERS, PLAIN, Site

_DOWNLOADS = 16
_ASKING = 8
_AHEAD = 0.5
"""Seconds that the downloads run before the first small request."""


@dataclass(frozen=True, slots=True)
class _Round:
    """Latencies in milliseconds, downloads in MB per second."""

    p50: float
    p99: float
    bulk: float


def busy(site: Site) -> Result:
    _, servers = holders(site, 64 * MIB, ("nginx",))
    bulk, small = wrk.gets(site.folder / "bulk"), wrk.gets(site.folder / "small", HEADERS)
    seconds = site.scale.seconds + 1

    def measure(index: int) -> _Round:
        server, target = servers[index]
        return _round(server, target, bulk, small, seconds)

    found = in_turns(len(servers), site.scale.rounds, measure)
    names = [server.name for server, _ in servers]
    p50 = _figure(names, "p50", "milliseconds", "lower", [[r.p50 for r in each] for each in found])
    p99 = _figure(names, "p99", "milliseconds", "lower", [[r.p99 for r in each] for each in found])
    down = _figure(
        names, "downloads", "MB per second", "higher", [[r.bulk for r in each] for each in found]
    )
    checks: list[Check] = []
    for name in names[1:]:
        most = 0.2 if name == "nginx" else 1.0
        checks.append(Check(check_name(p99, name), p99.ratio(name), most, at_least=False))
        checks.append(Check(check_name(down, name), down.ratio(name), 1.0))
    return Result("busy", (p99, p50, down), tuple(checks))


def _round(
    server: Server, target: str, bulk: wrk.Script, small: wrk.Script, seconds: float
) -> _Round:
    url = server.url("https")
    whole = seconds + 1
    downloads = wrk.start(url + target, bulk, connections=_DOWNLOADS, seconds=whole)
    try:
        time.sleep(_AHEAD)
        asked = wrk.drive(url + PLAIN, small, connections=_ASKING, seconds=seconds)
        downloaded = wrk.finish(downloads, whole)
    finally:
        if downloads.poll() is None:
            downloads.kill()
        downloads.communicate()
    if not asked.requests:  # all of them waited for longer than the round
        asked = replace(asked, p50=seconds, p99=seconds)
    return _Round(asked.p50 * 1e3, asked.p99 * 1e3, downloaded.bytes / downloaded.seconds / 1e6)


def _figure(
    names: Sequence[str], kind: str, unit: str, better: str, values: list[list[float]]
) -> Figure:
    ours, *peers = (Series(name, tuple(found)) for name, found in zip(names, values, strict=True))
    return Figure(f"busy, {kind}", unit, ours, tuple(peers), better=better)
