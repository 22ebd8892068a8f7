"""The results as one SVG, drawn by hand in two columns: ours and each peer with one worker.

Bars of one group share a scale, so that the longest is full; whether long is good stands beside the
unit. Colours and letters follow the reader's light or dark theme.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.figures import NOT_FINISHED, Figure, Result, Series
from benchmarks.table import number

_WIDTH = 480
"""Of a column."""
_LABEL = 110
_BAR = 16
_STEP = 20
_HEAD = 26
_GAP = 16
_ROOM = 110
"""Kept free right of the longest bar, for its figure."""

_STYLE = """\
text{font:12px system-ui,sans-serif;fill:#24292f}
.title{font-weight:600}.unit{fill:#57606a}
.ours{fill:#1a7f37}.peer{fill:#8c959f}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.unit{fill:#9198a1}
.ours{fill:#3fb950}.peer{fill:#6e7681}}"""


@dataclass(frozen=True, slots=True)
class _Row:
    series: Series
    own: bool


def draw(results: Sequence[Result]) -> str:
    """The whole drawing; cases without figures are left out."""
    columns: tuple[list[str], list[str]] = ([], [])
    tops = [_GAP, _GAP]
    figures = [figure for result in results for figure in result.figures]
    half = (sum(_height(figure) for figure in figures) + 1) // 2
    for figure in figures:
        side = 0 if tops[0] < half else 1
        columns[side].append(_group(figure, tops[side]))
        tops[side] += _height(figure)
    width, height = 2 * _WIDTH, max(tops)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="Benchmark results">\n'
        f"<style>{_STYLE}</style>\n<g>{''.join(columns[0])}</g>\n"
        f'<g transform="translate({_WIDTH})">{"".join(columns[1])}</g>\n</svg>\n'
    )


def _rows(figure: Figure) -> list[_Row]:
    shown = [series for series in figure.peers if " x" not in series.name]
    return [_Row(figure.ours, True), *(_Row(series, False) for series in shown)]


def _height(figure: Figure) -> int:
    return _HEAD + _STEP * len(_rows(figure)) + _GAP


def _group(figure: Figure, top: int) -> str:
    """One figure's bars from `top` on."""
    rows = _rows(figure)
    longest = max((row.series.median or 0.0 for row in rows), default=0.0)
    good = "more is better" if figure.better == "higher" else "less is better"
    parts = [
        f'<text class="title" x="8" y="{top + 12}">{escape(figure.name)} '
        f'<tspan class="unit" font-weight="400">{escape(figure.unit)}, {good}</tspan></text>\n'
    ]
    at = top + _HEAD
    for row in rows:
        parts.append(_bar(row, at, longest))
        at += _STEP
    return "".join(parts)


def _bar(row: _Row, at: int, longest: float) -> str:
    value = row.series.median
    width = 0.0 if not value or not longest else value / longest * (_WIDTH - _LABEL - _ROOM)
    text = NOT_FINISHED if value is None else number(value)
    middle = at + _BAR - 4
    return (
        f'<text x="{_LABEL - 8}" y="{middle}" text-anchor="end">{escape(row.series.name)}</text>'
        f'<rect class="{"ours" if row.own else "peer"}" x="{_LABEL}" y="{at}" '
        f'width="{max(1.0, width):.1f}" height="{_BAR}" rx="2"/>'
        f'<text x="{_LABEL + max(1.0, width) + 8:.1f}" y="{middle}">{escape(text)}</text>\n'
    )
