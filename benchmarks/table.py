"""The results for people: one table, a line for each server of each figure, and the targets."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.figures import NOT_FINISHED, Check, Figure, Result, Series


def show(results: Sequence[Result], commit: str, console: Console | None = None) -> None:
    """Prints to `console`, else to standard output."""
    console = console or Console(highlight=False)
    console.print(render(results, commit))
    for result in results:
        for note in result.notes:
            console.print(f"{result.case}: {note}", soft_wrap=True)


def render(results: Sequence[Result], commit: str) -> Table:
    table = Table(title=f"commit {commit[:12]}", title_justify="left")
    table.add_column("figure")
    table.add_column("server")
    for title in ("median", "spread", "ours / peer", "target"):
        table.add_column(title, justify="right")
    for result in results:
        if result.skipped is not None:
            table.add_row(result.case, "", "[yellow]skipped[/]", "", "", result.skipped[:60])
        for figure in result.figures:
            _add_figure(table, figure, {check.name: check for check in result.checks})
        named = {
            _check_name(figure, series, result)
            for figure in result.figures
            for series in figure.peers
        }
        for check in result.checks:
            if check.name not in named:
                table.add_row(check.name, "", "", "", number(check.value), _target(check))
        table.add_section()
    return table


def _add_figure(table: Table, figure: Figure, checks: dict[str, Check]) -> None:
    for series in (figure.ours, *figure.peers):
        own = series is figure.ours
        ratio = None if own else figure.ratio(series.name)
        check = None if own else _check_of(checks, figure, series)
        table.add_row(
            f"{figure.name}\n[dim]{figure.unit}[/]" if own else "",
            series.name,
            number(series.median) if series.values else NOT_FINISHED,
            "" if series.spread is None else f"±{series.spread:.0%}",
            "" if ratio is None else f"{ratio:.2f}",
            _target(check) if check else "",
        )


def _check_name(figure: Figure, series: Series, result: Result) -> str:
    check = _check_of({check.name: check for check in result.checks}, figure, series)
    return check.name if check else ""


def _check_of(checks: dict[str, Check], figure: Figure, series: Series) -> Check | None:
    """The target for a ratio to this peer: named as the peer, with the figure's own suffix."""
    suffix = figure.name.partition(",")[2]
    return checks.get(f"{series.name},{suffix}" if suffix else series.name)


def _target(check: Check) -> str:
    dream = f" (dream {check.dream:g})" if check.dream is not None else ""
    text = f"{check.sign} {check.bound:g}{dream}"
    return f"[green]{text} ✓[/]" if check.met else f"[red]{text} ✗[/]"


def number(value: float | None) -> str:
    """Three significant digits, thousands apart."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
