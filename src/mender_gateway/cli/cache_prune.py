"""`cache prune`: which stored things go, oldest served first, and their removal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mender_gateway.cache.eviction import Candidate, choose
from mender_gateway.cache.shelf import Shelf


@dataclass(frozen=True, slots=True)
class Pruned:
    removed: tuple[Candidate, ...]
    served: tuple[Candidate, ...]
    """Chosen, and in use."""
    left: int
    """Bytes that the cache holds now, in finished objects and in what dead fillers left."""
    reached: bool
    """The size that was asked for."""

    @property
    def freed(self) -> int:
        return sum(candidate.size for candidate in self.removed)

    def fields(self, *, dry_run: bool) -> dict[str, Any]:
        return {
            "dry_run": dry_run,
            "removed": [candidate.object_id for candidate in self.removed],
            "freed_bytes": self.freed,
            "in_use": [candidate.object_id for candidate in self.served],
            "left_bytes": self.left,
            "reached": self.reached,
        }


def prune(
    shelf: Shelf, now: float, *, older_than: float | None, to_size: int | None, dry_run: bool
) -> Pruned:
    """Removes what was last used before `now - older_than`, then more until `to_size` is left."""
    candidates = shelf.candidates()
    removed: list[Candidate] = []
    served: list[Candidate] = []

    def remove(chosen: Sequence[Candidate]) -> None:
        for candidate in chosen:
            gone = dry_run or _remove(shelf, candidate)
            (removed if gone else served).append(candidate)

    if older_than is not None:
        remove([c for c in candidates if c.last_used <= now - older_than])
    held = sum(c.size for c in candidates) - sum(c.size for c in removed)
    while to_size is not None and held > to_size:
        rest = [c for c in candidates if c not in removed and c not in served]
        chosen = choose(rest, held - to_size) or tuple(rest)
        if not chosen:
            break
        remove(chosen)
        held = sum(c.size for c in candidates) - sum(c.size for c in removed)
    reached = to_size is None or held <= to_size
    return Pruned(tuple(removed), tuple(served), held, reached)


def _remove(shelf: Shelf, candidate: Candidate) -> bool:
    if candidate.kind == "partial":
        return shelf.remove_partial(candidate.object_id)
    return shelf.remove(candidate.object_id)
