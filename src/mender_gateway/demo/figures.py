"""What the gateway's `/metrics` say about its cache, for the display."""

import re
from dataclasses import dataclass

from mender_gateway.demo.client import Connection, Target, WireError

_LINE = re.compile(r"(?m)^([a-z_]+) ([0-9.e+-]+)$")


@dataclass(frozen=True, slots=True)
class CacheFigures:
    """Counters since the gateway's start; `fills` are in flight now."""

    hits: int
    misses: int
    joins: int
    bypasses: int
    fills: int
    stored_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.misses} fetched, {self.joins} joined, {self.hits} hits, "
            f"{self.bypasses} bypasses, {self.fills} in flight"
        )


async def scrape(address: str) -> CacheFigures | None:
    """The figures of the gateway whose metrics listener is at host:port; None when it is mute."""
    target = Target.of(f"http://{address}/metrics")
    try:
        connection = await Connection.open(target, None, timeout=5.0)
        async with connection:
            await connection.send("GET", target, [("Connection", "close")])
            head = await connection.head(5.0)
            body = await connection.read(5.0)
    except (WireError, OSError, TimeoutError):
        return None
    if head.status != 200:
        return None
    values = {name: float(value) for name, value in _LINE.findall(body.decode())}

    def figure(name: str) -> int:
        return int(values.get(f"mender_gateway_cache_{name}", 0))

    return CacheFigures(
        hits=figure("hits_total"),
        misses=figure("misses_total"),
        joins=figure("joins_total"),
        bypasses=figure("bypasses_total"),
        fills=figure("fills"),
        stored_bytes=figure("stored_bytes"),
    )
