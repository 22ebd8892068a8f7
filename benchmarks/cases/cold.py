"""Devices that ask at once for an object nobody has yet, behind a slow uplink, whole and cut.

The ideal is the object once over the uplink, and then what the devices need to take it from a warm
cache. Bytes of the uplink are counted where the throttle is. A peer that is not done after five
times the ideal is stopped.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.artifact import MIB, Stored, local_target, stored
from benchmarks.figures import Check, Figure, Result, Series
from benchmarks.load import devices
from benchmarks.load.devices import Downloads
from benchmarks.processes import Server
from benchmarks.servers import nginx, varnish
from benchmarks.site import Site
from mender_gateway.demo.faults import cut

_PATIENCE = 5.0
"""Times the ideal after which a server is stopped."""
_RATES = (1e6, 5e6)
"""Bytes per second of the uplink."""
_FIRST_BYTE = 0.2
_WARM_GUESS = 200e6
"""Bytes per second that any cache delivers, for a deadline before its rate is known."""


@dataclass(frozen=True, slots=True)
class _Job:
    count: int
    size: int
    rate: float
    broken: bool

    def least(self, artifact: Stored, local_rate: float) -> float:
        """Seconds of the ideal."""
        return artifact.size / self.rate + artifact.size * self.count / local_rate


@dataclass(frozen=True, slots=True)
class _Run:
    """One server's: bytes over the uplink and seconds as multiples of the ideal."""

    name: str
    uplink: float
    took: float | None
    first_byte: float | None
    finished: int


type_of_start = Callable[[Site, Stored], tuple[Server, str]]


def cold(site: Site) -> Result:
    return _result(site, "cold", broken=False)


def cold_cut(site: Site) -> Result:
    return _result(site, "cold-cut", broken=True)


def _result(site: Site, case: str, broken: bool) -> Result:
    figures: list[Figure] = []
    checks: list[Check] = []
    rates = _RATES[1:] if site.scale.quick else _RATES
    for rate in rates:
        label = f"{rate / 1e6:g} MB/s"
        job = _Job(20, 8 * MIB, rate, broken)
        runs = [_run(site, job, "ours", _start_ours), *_run_peers(site, job)]
        _add(figures, checks, f"{case}, {label}", job, runs)
    if site.scale.long:
        job = _Job(200, 64 * MIB, _RATES[1], broken)
        runs = [_run(site, job, "ours", _start_ours)]
        _add(figures, checks, f"{case}, 200 devices, 64 MiB, 5 MB/s", job, runs)
    return Result(case, tuple(figures), tuple(checks))


def _add(
    figures: list[Figure], checks: list[Check], name: str, job: _Job, runs: list[_Run]
) -> None:
    ours = runs[0]
    most = 1.02 if job.broken else 1.01

    def series(values: list[float | None]) -> list[Series]:
        return [
            Series(run.name, () if value is None else (value,))
            for run, value in zip(runs, values, strict=True)
        ]

    for suffix, unit, values in (
        ("uplink bytes", "times the object", [run.uplink for run in runs]),
        ("time", "times the ideal", [run.took for run in runs]),
        ("first byte", "seconds, the last device's", [run.first_byte for run in runs]),
    ):
        own, *peers = series(list(values))
        figures.append(Figure(f"{name}: {suffix}", unit, own, tuple(peers), better="lower"))
    checks.append(Check(f"{name}: uplink bytes", ours.uplink, most, at_least=False))
    if job.broken:
        checks.append(Check(f"{name}: devices finished", ours.finished, job.count))
    else:
        checks.append(Check(f"{name}: time", ours.took, 1.05, at_least=False))
        checks.append(Check(f"{name}: first byte", ours.first_byte, _FIRST_BYTE, at_least=False))


def _run_peers(site: Site, job: _Job) -> list[_Run]:
    """All at once, each over an uplink of its own: they wait more than they work."""
    with ThreadPoolExecutor(len(_PEERS)) as threads:
        runs = [threads.submit(_run, site, job, name, start) for name, start in _PEERS.items()]
        return [run.result() for run in runs]


def _run(site: Site, job: _Job, name: str, start: type_of_start) -> _Run:
    """A store, an uplink and an empty cache of its own for each server."""
    part = f"{name}-{job.rate:.0f}-{job.count}-{job.broken}"
    with site.part(part) as ground:
        artifact = stored(ground, job.size, uplink=job.rate)
        if job.broken:
            quarter = -(-artifact.size // 4)
            artifact.cloud.storage.script("GET *", cut(quarter), times=None)
        server, target = start(ground, artifact)
        port = server.ports["http"]
        patience = _PATIENCE * job.least(artifact, _WARM_GUESS)
        found = devices.drive(port, target, job.count, patience)
        crossed = artifact.cloud.uplink.bytes_passed / artifact.size
        took = None
        if found.finished == job.count:
            local_rate = _warm_rate(port, target, job, patience)
            took = found.seconds / job.least(artifact, local_rate)
        return _Run(name, crossed, took, found.first_byte, found.finished)


def _warm_rate(port: int, target: str, job: _Job, patience: float) -> float:
    """Bytes per second of the same devices when everything is cached."""
    warm: Downloads = devices.drive(port, target, job.count, patience)
    return warm.received / warm.seconds


def _start_ours(site: Site, artifact: Stored) -> tuple[Server, str]:
    upstream = site.upstream(link=artifact.link)
    server = site.ours(upstream, storage=artifact.authority)
    return server, local_target(server)


def _start_varnish(site: Site, artifact: Stored) -> tuple[Server, str]:
    peer = varnish.cache(site.folder / "varnish", artifact.authority)
    return site.stack.enter_context(peer), artifact.target


def _start_nginx(site: Site, artifact: Stored) -> tuple[Server, str]:
    peer = nginx.cache(site.folder / "nginx", 1, artifact.authority)
    return site.stack.enter_context(peer), artifact.target


_PEERS: dict[str, type_of_start] = {
    "varnish": _start_varnish,
    "nginx": _start_nginx,
}
