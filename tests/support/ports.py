"""Ports that must be known before a server opens them, because its own configuration names them."""

import random
import socket
from pathlib import Path

_FIRST = 15_000


def fixed_port() -> int:
    """A free loopback port outside the range from which outgoing connections take theirs.

    So nothing but another caller of this function can take it before it is opened, or while its
    server restarts; that one would have to draw the same of many thousand.
    """
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    chosen = random.SystemRandom()
    while True:
        port = chosen.randrange(_FIRST, max(first_ephemeral, _FIRST + 1000))
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
