"""The command: which cases, how long, and where the figures go.

Without `--case` every case of the chosen kind runs, and the results are written to `--output`
(benchmarks/results/ unless the run is a quick one). With `--json` the last line is one JSON object
for one case, or a list of them.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import chart, machine, rounds, table, tools
from benchmarks.artifact import NotCached
from benchmarks.cases.registry import CASES, Case
from benchmarks.figures import Result
from benchmarks.load.wrk import LoadFailed
from benchmarks.processes import ServerFailed
from benchmarks.rounds import NoWork, Scale
from benchmarks.site import site

RESULTS = machine.ROOT / "benchmarks" / "results"
CHART = machine.ROOT / "docs" / "images" / "benchmarks.svg"
_FAULTS = (LoadFailed, NoWork, NotCached, ServerFailed, OSError, TimeoutError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when every case ran, whatever the figures; 1 when one could not."""
    options = _parsed(arguments)
    signal.signal(signal.SIGTERM, _end)
    scale = _scale(options)
    cases = _chosen(options)
    wanted = frozenset(tool for case in cases for tool in case.tools)
    try:
        if not options.no_install:
            tools.install(wanted)
        if options.install:
            return 0
        versions = tools.versions(wanted)
    except tools.ToolMissing as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    commit = machine.commit()
    ground = machine.describe(versions)
    began = time.monotonic()
    results = [_run(case, scale) for case in cases]
    table.show(results, commit)
    print(f"{len(results)} cases in {time.monotonic() - began:.0f} s", file=sys.stderr)
    output = options.output
    if output is None and not options.case and not scale.quick:
        output = RESULTS
    if output is not None:
        _write(output, results, scale, ground, commit)
    if options.json:
        found = [result.as_json(commit) for result in results]
        print(json.dumps(found[0] if len(found) == 1 else found))
    return 1 if any(result.skipped for result in results) else 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [case.name for case in CASES]
    parser.add_argument("--case", action="append", choices=names, help="only this one; repeatable")
    parser.add_argument("--json", action="store_true", help="last line: the result as JSON")
    parser.add_argument("--quick", action="store_true", help="few short rounds, one worker a peer")
    parser.add_argument("--quick-set", action="store_true", help="--quick, and only its cases")
    parser.add_argument("--long", action="store_true", help="with 200 devices and 64 MiB cold")
    parser.add_argument("--rounds", type=int, help="rounds of each figure")
    parser.add_argument("--seconds", type=int, help="seconds of each round")
    parser.add_argument("--output", type=Path, help="directory for latest.json and the chart")
    parser.add_argument("--no-install", action="store_true", help="fail when a tool is missing")
    parser.add_argument("--install", action="store_true", help="install what is missing, and end")
    return parser.parse_args(arguments)


def _scale(options: argparse.Namespace) -> Scale:
    base = rounds.QUICK if options.quick or options.quick_set else Scale()
    return Scale(
        rounds=options.rounds or base.rounds,
        seconds=options.seconds or base.seconds,
        warm_up=base.warm_up,
        quick=base.quick,
        long=options.long,
    )


def _chosen(options: argparse.Namespace) -> list[Case]:
    if options.case:
        return [case for case in CASES if case.name in options.case]
    return [case for case in CASES if case.quick or not options.quick_set]


def _run(case: Case, scale: Scale) -> Result:
    """One case; a fault of its servers or its load is a skipped result that says so."""
    print(f"{case.name}: {case.title}", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        with site(scale) as ground:
            return case.run(ground)
    except _FAULTS as error:
        said = "\n".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
        print(f"{case.name} failed: {said}", file=sys.stderr)
        return Result(case.name, skipped=said.partition("\n")[0])
    finally:
        print(f"    {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def _write(
    folder: Path, results: list[Result], scale: Scale, ground: dict[str, str | float], commit: str
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "commit": commit,
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": ground,
        "rounds": scale.rounds,
        "seconds": scale.seconds,
        "cases": [result.as_json(commit) for result in results],
    }
    (folder / "latest.json").write_text(json.dumps(document, indent=1) + "\n")
    drawing = CHART if folder == RESULTS else folder / "benchmarks.svg"
    drawing.parent.mkdir(parents=True, exist_ok=True)
    drawing.write_text(chart.draw(results))


def _end(*_: object) -> None:
    """SIGTERM ends the suite as an interrupt does: every server is stopped on the way out."""
    raise SystemExit(143)
