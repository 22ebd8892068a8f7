"""The command as its users start it: a process of its own, with an environment of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

NOTHING: Mapping[str, str] = MappingProxyType({})
DEADLINE = 30.0


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """What a process needs, no setting of the surroundings, and `variables`."""
    kept = ("PATH", "HOME", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG", "PYTHONPATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | dict(variables)


def command(*arguments: str, python: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, *python, "-m", "mender_gateway", *arguments]


def run(
    *arguments: str, variables: Mapping[str, str] = NOTHING, python: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, python=python),
        env=environment(variables),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@contextmanager
def running(
    *arguments: str, variables: Mapping[str, str] = NOTHING
) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command(*arguments), env=environment(variables), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_caught(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Wait until the process has a handler for the signal (proc(5), SigCgt)."""
    deadline = time.monotonic() + DEADLINE
    status = Path(f"/proc/{process.pid}/status")
    while time.monotonic() < deadline:
        caught = next(line for line in status.read_text().splitlines() if "SigCgt" in line)
        if int(caught.split()[1], 16) >> (number - 1) & 1:
            return
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}")
    raise AssertionError(f"never caught {number.name}")
