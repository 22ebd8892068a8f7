"""Figures of the demo as text, for people and for programs; and progress as plain lines."""

import json
import sys
import time
from typing import Protocol, TextIO

from mender_gateway.demo.fleet import Observer, Progress, Summary

LINE_EVERY = 2.0
"""Seconds between two lines of progress."""


def in_units(size: float, unit: str = "B") -> str:
    """A size in decimal units, three digits."""
    for prefix in ("", "k", "M", "G"):
        if abs(size) < 1000 or prefix == "G":
            break
        size /= 1000
    digits = 0 if not prefix else 2 if abs(size) < 10 else 1
    return f"{size:.{digits}f} {prefix}{unit}"


def counted(progress: Progress) -> str:
    """How many devices are in which state."""
    states: dict[str, int] = {}
    for device in progress.devices:
        states[device.state] = states.get(device.state, 0) + 1
    return ", ".join(f"{number} {state}" for state, number in states.items())


def throughput(progress: Progress) -> str:
    up, local = in_units(progress.uplink_rate, "B/s"), in_units(progress.local_rate, "B/s")
    return f"uplink {up}, local {local}"


def figures(summary: Summary) -> list[tuple[str, str]]:
    """The summary's lines: name and value."""
    delivered, uplink = summary.delivered_bytes, summary.uplink_bytes
    size = summary.artifact.size
    times = f" ({uplink / size:.3f} x the artifact)" if size else ""
    saved = f" ({delivered / uplink:.1f} x the uplink)" if uplink else ""
    ideal, seconds = summary.ideal_seconds, summary.seconds
    lines = [
        ("devices", f"{summary.succeeded} of {len(summary.reports)} updated, checksum right"),
        ("artifact", in_units(size)),
        ("over the uplink", f"{in_units(uplink)}{times}"),
        ("to devices", f"{in_units(delivered)}{saved}"),
        (
            "time",
            f"{seconds:.1f} s; the uplink alone takes {ideal:.1f} s ({seconds / ideal:.2f} x)",
        ),
    ]
    if summary.cache is not None:
        lines.append(("cache", str(summary.cache)))
    return lines


class Display(Observer, Protocol):
    def summary(self, summary: Summary) -> None:
        """Shows the end of a rollout."""

    def close(self) -> None:
        """Leaves the terminal as it should be."""


class PlainDisplay:
    """Progress and summary as lines of text."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._due = 0.0

    def phase(self, text: str) -> None:
        self._line(f"{text} ...")

    def progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + LINE_EVERY
        cache = f"; cache: {progress.cache}" if progress.cache else ""
        self._line(f"{progress.seconds:6.1f} s  {throughput(progress)}; {counted(progress)}{cache}")

    def summary(self, summary: Summary) -> None:
        for report in summary.reports:
            verdict = "ok" if summary.good(report) else f"{report.result}: {report.reason}"
            resumed = f", resumed {report.resumed} times" if report.resumed else ""
            self._line(
                f"  {report.identity['mac']}  {in_units(report.size)} in {report.seconds:.1f} s"
                f"{resumed}  {verdict}"
            )
        for name, value in figures(summary):
            self._line(f"{name + ':':17}{value}")

    def close(self) -> None:
        """Nothing to put back."""

    def _line(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def json_line(summary: Summary) -> str:
    return json.dumps(summary.as_json())
