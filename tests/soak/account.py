"""The soak's account: what crossed the uplink against what had to, and what was left behind."""

import fcntl
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mender_gateway.cache.shelf import Shelf
from tests.soak.place import Gateway, Place

_EVENT = re.compile(r'msg="cache: ([a-z ]+)" detail=("(?:[^"\\]|\\.)*"|\S+)(?: object=(\S+))?')
_OF_PARTIAL = {"fill.lock", "meta", "mark", "note"}


@dataclass
class Account:
    place: Place
    excused: Counter[str] = field(default_factory=Counter)
    uncached: float = 0.0
    """Bytes that came from storage past the cache, in the lives that have ended."""
    _fills: dict[int, float] = field(default_factory=dict)

    def excuse(self, why: str, size: int) -> None:
        self.excused[why] += size

    def life_ends(self, gateway: Gateway) -> None:
        """To be called right before a process ends: its counters end with it."""
        try:
            metrics = gateway.metrics()
        except OSError:
            return
        self.uncached += _past_the_cache(metrics)
        self._fills[id(gateway)] = metrics.get("mender_gateway_cache_fills", 0)

    def fills_of(self, gateway: Gateway) -> int:
        """In flight when `life_ends` was called."""
        return int(self._fills.get(id(gateway), 0))

    def events(self) -> list[tuple[str, str, str]]:
        """Kind, text and object of everything that the caches have logged."""
        return [
            (match[1], match[2].strip('"'), match[3] or "")
            for gateway in self.place.gateways
            for match in _EVENT.finditer(gateway.process.log)
        ]

    def sizes(self) -> dict[str, int]:
        """Size by object id."""
        return {
            path.partition("?")[0].rpartition("/")[2]: self.place.artifacts[name].size
            for name, path in self.place.paths.items()
        }

    def settle(self) -> tuple[float, float, float]:
        """Bytes that crossed the uplink, that had to, and that are excused or went uncached."""
        sizes = self.sizes()
        needed = 0
        for kind, text, object_id in self.events():
            if kind == "committed":
                needed += sizes[object_id]
            elif kind == "evicted" and text.endswith("partial"):
                self.excuse("unfinished fills that were evicted", int(text.split()[0]))
            elif kind in ("changed", "lost", "gave up", "rejected"):
                self.excuse(f"fills that ended: {kind}", sizes[object_id])
        needed += sum(partial.position for partial in Shelf(str(self.place.cache)).arriving())
        uncached = self.uncached + sum(_past_the_cache(g.metrics()) for g in self.place.gateways)
        return self.place.cloud.uplink.bytes_passed, needed, uncached + self.excused.total()

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
