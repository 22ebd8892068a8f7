"""Full TLS 1.3 handshakes (ECDSA P-256) with one forwarded request each."""

from functools import partial

from benchmarks.figures import Check, Figure, Result
from benchmarks.load import handshakes
from benchmarks.rounds import Contender, interleaved
from benchmarks.site import PLAIN, Site


def handshake(site: Site) -> Result:
    upstream = site.upstream()
    contenders = [
        Contender(server.name, server, partial(handshakes.drive, server.ports["https"], PLAIN))
        for server in [site.ours(upstream), *site.peers(upstream)]
    ]
    ours, *peers = interleaved(contenders, site.scale)
    figure = Figure("handshake", "handshakes per CPU-second", ours, tuple(peers))
    checks = tuple(
        Check(peer.name, figure.ratio(peer.name), 0.8)
        for peer in peers
        if peer.name.startswith("nginx")
    )
    return Result("handshake", (figure,), checks)
