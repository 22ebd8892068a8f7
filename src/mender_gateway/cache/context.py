"""What fills and followers share with the cache that owns them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from mender_gateway.cache.demand import Demand
from mender_gateway.cache.entry import Entry, Outcome
from mender_gateway.cache.origin import Attributes
from mender_gateway.cache.settings import CacheSettings, Event, Kind
from mender_gateway.cache.store import Store
from mender_gateway.cache.threads import Threads


@dataclass(slots=True)
class Tally:
    """Counters since the start of this process."""

    fills: int = 0
    """In flight now."""
    hits: int = 0
    misses: int = 0
    joins: int = 0
    bypasses: int = 0
    evictions: int = 0
    commits: int = 0
    rejections: int = 0
    origin_bytes: int = 0


class Enter(Protocol):
    """Opens an entry on a data file for all readers in this process, and takes its descriptor."""

    def __call__(
        self,
        demand: Demand,
        attributes: Attributes,
        fd: int,
        outcome: Outcome,
        *,
        mark: int = 0,
        finished: bool = False,
    ) -> Entry: ...


@dataclass(frozen=True, slots=True)
class Context:
    store: Store
    threads: Threads
    settings: CacheSettings
    report: Callable[[Event], None]
    enter: Enter
    release_idle: Callable[[], Awaitable[None]]
    """Lets unused entries go, so that they may be evicted."""
    trouble: Callable[[str], None]
    healed: Callable[[], None]
    luck: Callable[[], float]
    """Random numbers in [0, 1), for jitter."""
    tally: Tally = field(default_factory=Tally)
    reserving: asyncio.Lock = field(default_factory=asyncio.Lock)
    """At most one of our threads waits for the directory lock."""
    endings: set[asyncio.Task[None]] = field(default_factory=set)
    """Fills that are over and still give back what threads may be using."""

    def tell(self, kind: Kind, object_id: str, text: str) -> None:
        self.report(Event(kind, text, object_id))
