"""Which stored things make room for a newcomer: pure.

Room is judged before the newcomer's first byte is written, from sizes only: what the file system
has free, what locked partials have declared but not yet written, and what the limits leave. The
oldest served goes first. When everything that may go would not suffice, nothing goes.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

SLACK = 64 * 1024
"""Bytes per object for its small files and directories."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A finished object, or the partial of a dead filler."""

    kind: Literal["object", "partial"]
    object_id: str
    size: int
    """Bytes that its removal frees."""
    last_used: float
    """Seconds since the epoch: last served, or last written."""


@dataclass(frozen=True, slots=True)
class Filling:
    """A partial that a living filler holds."""

    declared: int
    """Its object's length; 0 while the origin has not answered."""
    written: int
    """Bytes that the file system has already given it."""

    @property
    def outstanding(self) -> int:
        return max(0, self.declared - self.written)


@dataclass(frozen=True, slots=True)
class Limits:
    max_size: int | None
    """Bytes that the cache may hold, finished and partial together; None: no limit."""
    min_free: int
    """Bytes that the file system must keep free."""


@dataclass(frozen=True, slots=True)
class Stock:
    """The directory as found under its lock."""

    free: int
    """Bytes that the file system has for us now."""
    candidates: tuple[Candidate, ...]
    fillings: tuple[Filling, ...]
    """The others' fills; the newcomer's own partial is not among them."""

    @property
    def held(self) -> int:
        """Bytes that the cache holds or has promised to hold."""
        return sum(c.size for c in self.candidates) + sum(
            max(f.declared, f.written) for f in self.fillings
        )

    @property
    def reserved(self) -> int:
        """Bytes promised and not yet written."""
        return sum(f.outstanding for f in self.fillings)


def default_floor(total: int) -> int:
    """MinFreeSpace by default: the larger of 64 MiB and 2 % of the file system, in bytes."""
    return max(64 * 1024 * 1024, total // 50)


def shortfall(stock: Stock, newcomer: Filling, limits: Limits) -> int:
    """Bytes to be freed before `newcomer` may be written; 0 when there is room."""
    if newcomer.declared and not newcomer.outstanding:
        return 0  # all of it is on the disk already, it only waits to be committed
    need = newcomer.outstanding + SLACK
    missing = need + stock.reserved + limits.min_free - stock.free
    if limits.max_size is not None:
        missing = max(missing, stock.held + newcomer.declared - limits.max_size)
    return max(0, missing)


def hopeless(stock: Stock, newcomer: Filling, limits: Limits) -> bool:
    """Whether there would be no room for `newcomer` in an empty cache, either."""
    written = sum(filling.written for filling in stock.fillings)
    free = stock.free + sum(candidate.size for candidate in stock.candidates) + written
    return shortfall(Stock(free, (), ()), newcomer, limits) > 0


def choose(
    candidates: Iterable[Candidate], needed: int, pinned: Collection[Candidate] = ()
) -> tuple[Candidate, ...] | None:
    """The oldest-used candidates that free `needed` bytes, or None when all would not suffice.

    `pinned` ones are being served and stay.
    """
    chosen = []
    for candidate in sorted(candidates, key=lambda c: (c.last_used, c.object_id)):
        if needed <= 0:
            break
        if candidate in pinned or candidate.size <= 0:
            continue
        chosen.append(candidate)
        needed -= candidate.size
    return tuple(chosen) if needed <= 0 else None
