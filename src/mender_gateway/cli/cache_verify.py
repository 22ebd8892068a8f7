"""`cache verify`: stored objects read from the disk and compared with their checksums."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from mender_gateway.cache.shelf import Shelf, Stored, Verdict


@dataclass(slots=True)
class Report:
    right: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    """Evicted or removed meanwhile."""
    removed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """Asked for, and not there."""

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class _Advance(Protocol):
    def __call__(self, size: int, /) -> bool: ...


def verify(shelf: Shelf, wanted: Sequence[str], *, keep: bool, silent: bool) -> Report:
    """Reads the objects whose ids begin with one of `wanted`, all when there are none."""
    report = Report()
    objects = shelf.objects()
    if wanted:
        report.unknown = [w for w in wanted if not any(o.object_id.startswith(w) for o in objects)]
        objects = [o for o in objects if o.object_id.startswith(tuple(wanted))]
    with _progress(objects, silent) as advance:
        for stored in objects:
            verdict = shelf.examine(stored, advance)
            of_verdict = {Verdict.RIGHT: report.right, Verdict.WRONG: report.damaged}
            of_verdict.get(verdict, report.gone).append(stored.object_id)
            unwanted = verdict is Verdict.WRONG and not keep
            if unwanted and shelf.remove(stored.object_id, even_if_served=True):
                report.removed.append(stored.object_id)
    return report


@contextmanager
def _progress(objects: Sequence[Stored], silent: bool) -> Iterator[_Advance]:
    """A bar on stderr when somebody sees it."""
    if silent or not sys.stderr.isatty():
        yield lambda _: True
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("verifying"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=sum(stored.meta.length for stored in objects))

        def advance(size: int, /) -> bool:
            progress.advance(task, size)
            return True

        yield advance
