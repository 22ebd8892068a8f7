"""All cases, in the order in which they run."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.cases import api, hits
from benchmarks.figures import Result
from benchmarks.site import Site

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
    Case("hit-plain", "64 MiB from the cache", hits.plain, _BOTH | {"varnishd"}, quick=True),
    Case("hit-tls", "the same over TLS 1.3", hits.tls, quick=True),
    Case("hit-ranges", "2,048-byte ranges from the cache", hits.ranges),
)
