"""The soak's account: what crossed the uplink against what had to, and what was left behind.

Needed is each object once for each time that it was stored, and what had come of fills that ended
otherwise. A resume may repeat what the filler before it had written and could not be verified: as
many bytes as the log says, and never more than a chunk. Storage that ignores a range repeats what
lies before it: as many bytes as it sent. What streamed past the cache is told by the gateways'
counters, and is allowed only around disk trouble and where there was no room. Nothing else is
forgiven: what was in flight when a process died, heads, and what a device left half-way are on the
cache's bill.
"""

import fcntl
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mender_gateway.cache.layout import CHUNK
from mender_gateway.cache.shelf import Shelf
from tests.soak.place import Gateway, Place

_EVENT = re.compile(
    r'msg="cache: ([a-z ]+)" detail=("(?:[^"\\]|\\.)*"|\S+)(?: object=(\S+))?', re.MULTILINE
)
_TAKEN_OVER = re.compile(r"(\d+) bytes were here of (\d+) once written")
_HAD_COME = re.compile(r"(\d+) bytes had come")
_RESUMED = re.compile(r"bytes=(\d+)-")
_OF_PARTIAL = {"fill.lock", "meta", "mark", "note", "object"}
_PAUSE = 25.0
"""Seconds after disk trouble in which the cache may still be gone around."""


@dataclass(frozen=True)
class Bill:
    used: int
    """Bytes that crossed the uplink."""
    uncached: int
    """Of these, past the cache."""
    needed: int
    repeated: int
    """By resumes, and by storage that ignored ranges."""

    @property
    def ratio(self) -> float:
        return (self.used - self.uncached) / max(self.needed + self.repeated, 1)

    @property
    def repeats(self) -> float:
        """Of what was needed, the share that was allowed to be repeated."""
        return self.repeated / max(self.needed, 1)


@dataclass
class Account:
    place: Place
    items: Counter[str] = field(default_factory=Counter)
    """What the bill is made of, in bytes."""
    faults: list[str] = field(default_factory=list)
    _uncached: float = 0.0
    """Bytes that came from storage past the cache, in the lives that have ended."""
    _troubles: list[tuple[float, float]] = field(default_factory=list)
    _seen: list[tuple[float, float]] = field(default_factory=list)
    """When how many bytes had gone past the cache."""

    def spent(self, why: str, size: int) -> None:
        self.items[why] += size

    @asynccontextmanager
    async def disk_trouble(self) -> AsyncIterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self._troubles.append((begun, time.monotonic() + _PAUSE))

    def life_ends(self, gateway: Gateway) -> None:
        """To be called right before a process ends: its counters end with it."""
        try:
            self._uncached += _past_the_cache(gateway.metrics())
        except OSError:
            return

    def look(self) -> None:
        """To be called now and then: how many bytes have gone past the cache by now."""
        try:
            self._seen.append((time.monotonic(), self.uncached()))
        except (OSError, ValueError):
            return

    def uncached(self) -> float:
        return self._uncached + sum(_past_the_cache(g.metrics()) for g in self.place.gateways)

    def without_reason(self) -> int:
        """Bytes that went past the cache while no disk was in trouble."""
        found = 0.0
        for (begun, before), (ended, after) in zip(self._seen, self._seen[1:], strict=False):
            if not any(begun <= until and ended >= since for since, until in self._troubles):
                found += max(0.0, after - before)
        return int(found)

    def events(self) -> list[tuple[str, str, str]]:
        """Kind, text and object of everything that the caches have logged."""
        return [
            (match[1], match[2].strip('"'), match[3] or "")
            for gateway in self.place.gateways
            for match in _EVENT.finditer(gateway.process.log)
        ]

    def kinds(self) -> Counter[str]:
        return Counter(kind for kind, _, _ in self.events())

    def sizes(self) -> dict[str, int]:
        """Size by object id."""
        return {
            path.partition("?")[0].rpartition("/")[2]: self.place.artifacts[name].size
            for name, path in self.place.paths.items()
        }

    def settle(self) -> Bill:
        """To be called once, when nothing is being fetched any more."""
        sizes, repeated = self.sizes(), 0
        for kind, text, object_id in self.events():
            if kind == "committed":
                self.spent("stored", sizes[object_id])
            elif kind == "evicted" and text.endswith("partial"):
                self.spent("partials that were evicted", int(text.split()[0]))
            elif kind in ("changed", "lost", "rejected") and (had := _HAD_COME.search(text)):
                self.spent(f"fills that ended: {kind}", int(had[1]))
            elif kind == "taken over" and (took := _TAKEN_OVER.search(text)):
                repeated += self._tail(object_id, int(took[2]) - int(took[1]))
        for partial in Shelf(str(self.place.cache)).arriving():
            self.spent("partials that are left", partial.position)
        ignored = self._ignored()
        return Bill(
            self.place.cloud.uplink.bytes_passed,
            int(self.uncached()),
            self.items.total(),
            repeated + ignored,
        )

    def _tail(self, object_id: str, size: int) -> int:
        if size > CHUNK:
            self.faults.append(f"{object_id}: a resume repeated {size} bytes")
        return size

    def _ignored(self) -> int:
        """Bytes before the range that fills had asked for, where storage sent them again."""
        found = 0
        for exchange in self.place.cloud.storage.requests:
            wanted = _RESUMED.fullmatch(exchange.header("range") or "")
            if exchange.status == 200 and wanted and exchange.header("if-range") is not None:
                found += min(int(wanted[1]), exchange.sent)
        return found

    def left_behind(self) -> list[str]:
        """Files in the cache that nobody needs, and locks that nobody should hold."""
        found = []
        base = self.place.cache / "v1"
        for path in sorted(base.rglob("*")):
            parts = path.relative_to(base).parts
            if parts[0] == "trash" and len(parts) > 1:
                found.append(f"in the trash: {path}")
            elif parts[0] == "objects" and len(parts) == 3 and parts[2] not in ("meta", "data"):
                found.append(f"beside an object: {path}")
            elif parts[0] == "partial" and len(parts) >= 3:
                name = parts[2]
                if name not in _OF_PARTIAL and not name.startswith(("data.", "prefix.")):
                    found.append(f"beside a partial: {path}")
            if path.is_file() and _is_locked(path):
                found.append(f"locked: {path}")
        return found


def _past_the_cache(metrics: dict[str, float]) -> float:
    received = metrics.get("mender_gateway_storage_bytes_total", 0.0)
    return max(0.0, received - metrics.get("mender_gateway_cache_fill_bytes_total", 0.0))


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
