"""The arithmetic of the suite: medians, ratios, spread, and whether a target is met. Pure.

A `Series` is one figure of one server with a value a round. The ratio to a peer is the median of
the ratios round by round: both were measured within seconds of each other, so what disturbs the
machine for longer than a round disturbs both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

NOT_FINISHED = "did not finish"


@dataclass(frozen=True, slots=True)
class Series:
    """`values` in the order of the rounds; none at all: the server did not finish."""

    name: str
    values: tuple[float, ...]

    @property
    def median(self) -> float | None:
        return median(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """Half the distance between the smallest and the largest value, over the median."""
        middle = self.median
        if not middle:
            return None
        return (max(self.values) - min(self.values)) / 2 / middle


@dataclass(frozen=True, slots=True)
class Figure:
    """One kind of figure, of ours and of peers. `better` says which end is the good one."""

    name: str
    unit: str
    ours: Series
    peers: tuple[Series, ...] = ()
    better: str = "higher"

    def ratio(self, peer: str) -> float | None:
        """Median of ours over the peer's, round by round; None when one of them has no value."""
        theirs = next((series for series in self.peers if series.name == peer), None)
        if theirs is None:
            raise KeyError(f"{self.name}: no peer {peer}")
        return ratio(self.ours.values, theirs.values)

    @property
    def ratios(self) -> dict[str, float | None]:
        return {series.name: self.ratio(series.name) for series in self.peers}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Round by round where both have as many rounds, else of the medians."""
    if not ours or not theirs:
        return None
    if len(ours) == len(theirs):
        quotients = [one / other for one, other in zip(ours, theirs, strict=True) if other]
        return median(quotients) if quotients else None
    return median(ours) / median(theirs) if median(theirs) else None


def check_name(figure: Figure, peer: str) -> str:
    """Of a target for the ratio to a peer: the peer, and what sets the figure apart in its case."""
    return ",".join((peer, *figure.name.split(",")[1:]))


@dataclass(frozen=True, slots=True)
class Check:
    """A target: `value` has to be at least (or at most) `bound`. No value is a miss."""

    name: str
    value: float | None
    bound: float
    at_least: bool = True
    dream: float | None = None

    @property
    def met(self) -> bool:
        if self.value is None:
            return False
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def sign(self) -> str:
        return "≥" if self.at_least else "≤"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a case. `skipped` says why it did not run; it has no figures then."""

    case: str
    figures: tuple[Figure, ...] = ()
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: str | None = None

    @property
    def met(self) -> bool:
        """Every target is met; false for a case that did not run."""
        return self.skipped is None and all(check.met for check in self.checks)

    @property
    def ratios(self) -> dict[str, float | None]:
        """Of the first figure, and what each target is held against."""
        first = self.figures[0].ratios if self.figures else {}
        return first | {check.name: check.value for check in self.checks}

    def as_json(self, commit: str) -> dict[str, Any]:
        """The first figure at the top, and all of them under `figures`."""
        first = self.figures[0] if self.figures else None
        return {
            "case": self.case,
            "unit": first.unit if first else None,
            "ours": _rounded(first.ours.median) if first else None,
            "peers": {s.name: _rounded(s.median) for s in first.peers} if first else {},
            "ratios": _all_rounded(self.ratios),
            "targets": {check.name: check.bound for check in self.checks},
            "met": self.met,
            "commit": commit,
            "skipped": self.skipped,
            "figures": [_figure(figure) for figure in self.figures],
            "checks": [_check(check) for check in self.checks],
            "notes": list(self.notes),
        }


def _figure(figure: Figure) -> dict[str, Any]:
    return {
        "name": figure.name,
        "unit": figure.unit,
        "better": figure.better,
        "ours": _series(figure.ours),
        "peers": {series.name: _series(series) for series in figure.peers},
        "ratios": _all_rounded(figure.ratios),
    }


def _series(series: Series) -> dict[str, Any]:
    return {
        "median": _rounded(series.median),
        "spread": _rounded(series.spread),
        "rounds": [_rounded(value) for value in series.values],
    }


def _check(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "value": _rounded(check.value),
        "sign": check.sign,
        "bound": check.bound,
        "dream": check.dream,
        "met": check.met,
    }


def _all_rounded(values: dict[str, float | None]) -> dict[str, float | None]:
    return {name: _rounded(value) for name, value in values.items()}


def _rounded(value: float | None) -> float | None:
    """Five significant digits: more are noise, and make every diff of the results a big one."""
    return None if value is None else float(f"{value:.5g}")
