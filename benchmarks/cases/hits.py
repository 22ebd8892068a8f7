"""Downloads of what is cached: whole, plain and over TLS, and in the small ranges of small devices.

nginx and Caddy serve the same bytes as a plain file, which is the best they can do; Varnish has
them in memory and speaks no TLS.
"""

from collections.abc import Sequence
from functools import partial

from benchmarks.artifact import MIB, Stored, fill, local_target, stored
from benchmarks.figures import Check, Figure, Result, check_name
from benchmarks.load import wrk
from benchmarks.processes import Server
from benchmarks.rounds import Contender, interleaved
from benchmarks.servers import varnish
from benchmarks.site import Site

_RANGE = 2048
_IMAGE = MIB
_MEGABYTE = 1e6
_FEW, _MANY = 8, 64


def plain(site: Site) -> Result:
    artifact, servers = holders(site, 64 * MIB)
    if not site.scale.quick:
        peer = varnish.cache(site.folder / "varnish", artifact.authority)
        server = site.stack.enter_context(peer)
        fill(server, artifact.target, artifact)
        servers.append((server, artifact.target))
    return _whole(site, "hit-plain", "http", servers, dream=None)


def tls(site: Site) -> Result:
    return _whole(site, "hit-tls", "https", holders(site, 64 * MIB)[1], dream=1.2)


def ranges(site: Site) -> Result:
    """Each connection asks for 2,048 bytes after 2,048 bytes of one image."""
    _, servers = holders(site, _IMAGE, ("caddy", "nginx"))
    contenders = []
    for server, target in servers:
        requests = [_range(target, start) for start in range(0, _IMAGE, _RANGE)]
        script = wrk.written(site.folder / server.name, "ranges", requests)
        load = partial(_ranges, server.url(), script)
        contenders.append(Contender(server.name, server, load))
    ours, *peers = interleaved(contenders, site.scale)
    figure = Figure("hit-ranges", "ranges per CPU-second", ours, tuple(peers))
    return Result("hit-ranges", (figure,), _checks(figure, "caddy", 1.0))


def holders(
    site: Site, size: int, kinds: Sequence[str] = ("nginx", "caddy")
) -> tuple[Stored, list[tuple[Server, str]]]:
    """Ours with the artifact in its cache, and the peers with it as a file: server and target."""
    artifact = stored(site, size)
    upstream = site.upstream(link=artifact.link)
    ours = site.ours(upstream, storage=artifact.authority)
    target = local_target(ours)
    fill(ours, target, artifact)
    if site.scale.quick:
        kinds = kinds[:1]
    peers = site.peers(upstream, kinds, files=artifact.path.parent)
    file = f"/files/{artifact.path.name}"
    return artifact, [(ours, target), *((peer, file) for peer in peers)]


def _whole(
    site: Site, case: str, scheme: str, servers: list[tuple[Server, str]], dream: float | None
) -> Result:
    """Caddy in the figure with fewer connections only: it is no yardstick here."""
    figures: list[Figure] = []
    checks: list[Check] = []
    script = wrk.gets(site.folder)
    for connections in (_FEW,) if site.scale.quick else (_FEW, _MANY):
        contenders = [
            Contender(
                server.name,
                server,
                partial(_megabytes, server.url(scheme) + target, script, connections),
            )
            for server, target in servers
            if connections == _FEW or not server.name.startswith("caddy")
        ]
        ours, *peers = interleaved(contenders, site.scale)
        figure = Figure(
            f"{case}, {connections} connections", "MB per CPU-second", ours, tuple(peers)
        )
        figures.append(figure)
        checks += _checks(figure, "nginx", 1.0, dream)
    return Result(case, tuple(figures), tuple(checks))


def _checks(
    figure: Figure, kind: str, least: float, dream: float | None = None
) -> tuple[Check, ...]:
    return tuple(
        Check(check_name(figure, peer.name), figure.ratio(peer.name), least, dream=dream)
        for peer in figure.peers
        if peer.name.startswith(kind)
    )


def _megabytes(url: str, script: wrk.Script, connections: int, seconds: float) -> float:
    got = wrk.drive(url, script, connections=connections, seconds=seconds)
    return got.bytes / _MEGABYTE


def _ranges(url: str, script: wrk.Script, seconds: float) -> float:
    """Ranges that were answered, all of them with the bytes asked for."""
    got = wrk.drive(url, script, connections=32, seconds=seconds)
    if got.requests and not _RANGE < got.bytes / got.requests < 2 * _RANGE:
        raise wrk.LoadFailed(f"{got.bytes / got.requests:.0f} bytes a range of {_RANGE}")
    return got.requests


def _range(target: str, start: int) -> bytes:
    end = start + _RANGE - 1
    return (
        f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nRange: bytes={start}-{end}\r\n\r\n"
    ).encode()
