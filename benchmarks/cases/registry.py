"""All cases, in the order in which they run."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.cases import api, busy, cold, footprint, handshake, hits, tunnels
from benchmarks.figures import Result
from benchmarks.site import Site

_SHAKES = frozenset({"nginx", "caddy", "openssl"})
_CACHES = frozenset({"nginx", "varnishd"})
_BOTH = frozenset({"nginx", "wrk", "caddy"})


@dataclass(frozen=True, slots=True)
class Case:
    """`quick` ones are run by `make bench-quick`."""

    name: str
    title: str
    run: Callable[[Site], Result]
    tools: frozenset[str] = _BOTH
    quick: bool = False


CASES = (
    Case("api-plain", "small JSON forwarded, 32 connections", api.plain, quick=True),
    Case("api-tls", "the same over TLS 1.3", api.tls, quick=True),
    Case(
        "api-mtls",
        "the same with client certificates",
        api.mutual,
        _BOTH | {"nginx-stream"},
    ),
    Case("rewrite", "instructions with the link rewritten and signed", api.rewrite, quick=True),
    Case("inventory", "an inventory of 40 attributes completed", api.inventory),
    Case("handshake", "full TLS handshakes with one request each", handshake.handshake, _SHAKES),
    Case("hit-plain", "64 MiB from the cache", hits.plain, _BOTH | {"varnishd"}, quick=True),
    Case("hit-tls", "the same over TLS 1.3", hits.tls, quick=True),
    Case("hit-ranges", "2,048-byte ranges from the cache", hits.ranges),
    Case(
        "cold",
        "20 devices at once, an object nobody has, a slow uplink",
        cold.cold,
        _CACHES,
    ),
    Case("cold-cut", "the same over an uplink that breaks every quarter", cold.cold_cut, _CACHES),
    Case("busy", "small TLS requests while 16 TLS downloads saturate the machine", busy.busy),
    Case("tunnels", "2,000 WebSockets over TLS", tunnels.run, frozenset({"nginx", "caddy"})),
    Case("idle", "memory after 10,000 mixed requests", footprint.idle, frozenset({"nginx", "wrk"})),
    Case("start", "exec to first answer", footprint.start, frozenset({"nginx", "caddy"})),
)
