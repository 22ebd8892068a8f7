"""The demo on a terminal: a bar per device, throughput and cache state, live; then a table.

The only module that needs rich; it is imported when there is a terminal to show it on.
"""

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from mender_gateway.demo.fleet import Progress, Summary
from mender_gateway.demo.summary import counted, figures, in_units, throughput

_RESERVED_LINES = 8
"""Lines of the terminal that are not for bars."""


class TerminalDisplay:
    """Live from the first progress on; `close` leaves the last state on the screen."""

    def __init__(self, stderr: bool = False) -> None:
        self._console = Console(stderr=stderr)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TextColumn("{task.fields[state]}"),
            console=self._console,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._live: Live | None = None

    def phase(self, text: str) -> None:
        self.close()
        self._console.print(f"{text} ...", highlight=False)

    def progress(self, progress: Progress) -> None:
        room = max(1, self._console.height - _RESERVED_LINES)
        for device in progress.devices[:room]:
            task = self._tasks.get(device.name)
            if task is None:
                task = self._bars.add_task(device.name, total=None, state="")
                self._tasks[device.name] = task
            self._bars.update(
                task, total=device.total, completed=device.received, state=device.state
            )
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(self._drawn(progress, room), refresh=True)

    def summary(self, summary: Summary) -> None:
        self.close()
        table = Table("device", "result", "bytes", "seconds", "attempts", title="Rollout")
        for report in summary.reports:
            good = summary.good(report)
            verdict = Text("ok", "green") if good else Text(report.reason or "failed", "red")
            table.add_row(
                report.identity["mac"],
                verdict,
                in_units(report.size),
                f"{report.seconds:.1f}",
                str(report.attempts),
            )
        self._console.print(table)
        totals = Table(show_header=False, box=None)
        for name, value in figures(summary):
            totals.add_row(name, value)
        self._console.print(totals)

    def close(self) -> None:
        """Ends the live part."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _drawn(self, progress: Progress, room: int) -> RenderableType:
        lines = [f"{progress.seconds:.1f} s   {throughput(progress)}", counted(progress)]
        if len(progress.devices) > room:
            lines.append(f"({len(progress.devices) - room} more devices)")
        if progress.cache is not None:
            lines.append(f"cache: {progress.cache}")
        return Group(self._bars, *(Text(line) for line in lines))
