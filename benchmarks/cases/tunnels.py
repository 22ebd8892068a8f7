"""Two thousand idle WebSockets over TLS, and then a thousand messages a second over them.

Memory is what the server's resident memory grew by, after a few tunnels had come and gone.
"""

import time
from functools import partial

from benchmarks.figures import Check, Figure, Result, Series
from benchmarks.load import tunnels
from benchmarks.load.tunnels import Tunnels
from benchmarks.processes import Server
from benchmarks.rounds import Contender, interleaved
from benchmarks.servers.echo import echo
from benchmarks.site import Site

COUNT = 2_000
_RATE = 1_000
_FIRST_FEW = 20
_SETTLE = 1.0
_LIMITS = {"UpstreamConnections": 2 * COUNT}


def run(site: Site) -> Result:
    upstream = site.stack.enter_context(echo(site.folder / "echo"))
    servers = [
        site.ours(upstream, limits=_LIMITS),
        *site.peers(upstream, ("caddy", "nginx")),
    ]
    contenders: list[Contender] = []
    memory: list[Series] = []
    for server in servers:
        opened, bytes_each = _open(site, server)
        memory.append(Series(server.name, (bytes_each / 1e3,)))
        load = partial(_messages, opened)
        contenders.append(Contender(server.name, server, load))
    ours, *peers = interleaved(contenders, site.scale)
    messages = Figure("tunnels, messages", "messages per CPU-second", ours, tuple(peers))
    resident = Figure(
        "tunnels, memory", "KB per tunnel", memory[0], tuple(memory[1:]), better="lower"
    )
    check = Check(resident.name, resident.ours.median, 60.0, at_least=False)
    note = f"Limits.UpstreamConnections was {_LIMITS['UpstreamConnections']} (default 1000)"
    return Result("tunnels", (resident, messages), (check,), (note,))


def _open(site: Site, server: Server) -> tuple[Tunnels, float]:
    """All tunnels, and the bytes of memory that each took."""
    port = server.ports["https"]
    with tunnels.opened(port, _FIRST_FEW) as few:
        few.send(1.0, 100)
    before = server.resident()
    opened = site.stack.enter_context(tunnels.opened(port, COUNT))
    time.sleep(_SETTLE)
    return opened, (server.resident() - before) / COUNT


def _messages(opened: Tunnels, seconds: float) -> float:
    return opened.send(seconds, _RATE)
