"""The results for people: one table, a line for each server of each figure, and the targets."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.figures import NOT_FINISHED, Check, Figure, Result, check_name

_WIDTH = 116
"""Columns where the output is no terminal."""


def show(results: Sequence[Result], commit: str, console: Console | None = None) -> None:
    """Prints to `console`, else to standard output."""
    if console is None:
        wide = None if sys.stdout.isatty() else _WIDTH
        console = Console(highlight=False, width=wide)
    console.print(render(results, commit))
    for result in results:
        for note in result.notes:
            console.print(f"{result.case}: {note}", soft_wrap=True)


def render(results: Sequence[Result], commit: str) -> Table:
    """A target stands beside the peer it is held against, or beside ours when it is absolute."""
    table = Table(title=f"commit {commit[:12]}", title_justify="left")
    table.add_column("figure")
    table.add_column("server", no_wrap=True)
    for title in ("median", "spread", "ours / peer", "target"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in results:
        if result.skipped is not None:
            table.add_row(result.case, "", "[yellow]skipped[/]", "", "", "")
            table.add_row(f"[yellow]{escape(result.skipped)}[/]")
        checks = {check.name: check for check in result.checks}
        for figure in result.figures:
            _add_figure(table, figure, checks)
        for check in checks.values():
            table.add_row(check.name, "ours", number(check.value), "", "", _target(check))
        table.add_section()
    return table


def _add_figure(table: Table, figure: Figure, checks: dict[str, Check]) -> None:
    """Takes the checks that it shows out of `checks`."""
    for series in (figure.ours, *figure.peers):
        own = series is figure.ours
        ratio = None if own else figure.ratio(series.name)
        check = checks.pop(figure.name if own else check_name(figure, series.name), None)
        table.add_row(
            f"{figure.name}, [dim]{figure.unit}[/]" if own else "",
            series.name,
            number(series.median) if series.values else NOT_FINISHED,
            "" if series.spread is None or len(series.values) < 2 else f"±{series.spread:.0%}",
            "" if ratio is None else f"{ratio:#.3g}",
            _target(check) if check else "",
        )


def _target(check: Check) -> str:
    text = f"{check.sign} {check.bound:g}"
    return f"[green]{text} ✓[/]" if check.met else f"[red]{text} ✗[/]"


def number(value: float | None) -> str:
    """Three significant digits, thousands apart."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:#.3g}"
