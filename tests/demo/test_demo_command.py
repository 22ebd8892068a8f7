"""`mender-gateway demo` as a user runs it: its summary, its exit status, and what it leaves."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mender_gateway.cli.demo import parse_rate, parse_size

DEADLINE = 90


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """The demo with a temporary directory of its own, whose emptiness can be looked at."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "mender_gateway", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if "--json" not in arguments else subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"},
    )


def left_over(tmp_path: Path) -> list[str]:
    """Files and processes that the demo left behind."""
    found = [str(path) for path in (tmp_path / "scratch").iterdir()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue
            if str(tmp_path).encode() in command:
                found.append(command.decode())
    return found


def output_until(demo: subprocess.Popen[str], wanted: str) -> str:
    """The output up to the line in which `wanted` occurs."""
    assert demo.stdout is not None
    lines = []
    for line in demo.stdout:
        lines.append(line)
        if re.search(wanted, line):
            return "".join(lines)
    raise AssertionError(f"{wanted!r} did not occur in:\n{''.join(lines)}")


@pytest.mark.parametrize("tls", [[], ["--https"]])
def test_every_device_is_updated_over_an_uplink_crossed_once(
    tmp_path: Path, tls: list[str]
) -> None:
    demo = start(tmp_path, "--json", "--devices", "5", "--size", "2MB", "--uplink", "16mbit", *tls)
    out, progress = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 0, progress
    summary = json.loads(out.splitlines()[-1])
    assert summary["devices"] == summary["succeeded"] == 5
    size = summary["per_device"][0]["bytes"]
    assert size > 2_000_000
    assert summary["delivered_bytes"] == 5 * size
    assert size <= summary["uplink_bytes"] < 1.01 * size
    assert summary["ideal_seconds"] == pytest.approx(size * 8 / 16e6, abs=0.001)
    assert summary["seconds"] >= 0.9 * summary["ideal_seconds"]
    for device in summary["per_device"]:
        assert (device["result"], device["checksum_ok"], device["errors"]) == ("success", True, [])
    assert "deploying" in progress
    assert not left_over(tmp_path)


def test_without_a_terminal_it_tells_by_lines(tmp_path: Path) -> None:
    demo = start(tmp_path, "--devices", "2", "--size", "200kB")
    out, _ = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 0
    assert "\x1b" not in out
    for text in ("starting the gateway", "2 of 2 updated", "1 fetched, 1 joined", "x the artifact"):
        assert text in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    demo = start(tmp_path, "--size", "50MB", "--uplink", "1mbit")
    output_until(demo, "10 downloading")
    demo.send_signal(number)
    out, _ = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 130
    assert "interrupted" in out
    assert not left_over(tmp_path)


def test_a_gateway_that_dies_fails_the_demo(tmp_path: Path) -> None:
    demo = start(tmp_path, "--size", "50MB", "--uplink", "1mbit")
    output_until(demo, "10 downloading")
    [gateway] = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and is_gateway_of(entry, tmp_path)
    ]
    os.kill(gateway, signal.SIGKILL)
    out, _ = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 1
    assert "the gateway ended during the rollout" in out
    assert not left_over(tmp_path)


def is_gateway_of(entry: Path, tmp_path: Path) -> bool:
    try:
        command = (entry / "cmdline").read_bytes()
    except OSError:
        return False
    return b"--config" in command and str(tmp_path).encode() in command


def test_serving_says_how_to_join_and_goes_on_until_interrupted(tmp_path: Path) -> None:
    demo = start(tmp_path, "--serve", "--devices", "1", "--size", "100kB")
    out = output_until(demo, "Metrics of the gateway")
    conf = json.loads(out[out.index("{") : out.rindex("}") + 1])
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", conf["ServerURL"])
    assert "device_type=demo-board" in out
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        assert demo.poll() is None
        time.sleep(0.05)
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 0
    assert not left_over(tmp_path)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_size, "20MB", 20_000_000),
        (parse_size, "512 kb", 512_000),
        (parse_size, "1.5G", 1_500_000_000),
        (parse_size, "4096", 4096),
        (parse_rate, "20mbit", 20e6),
        (parse_rate, "500kbit/s", 500e3),
        (parse_rate, "1.5Gbit", 1.5e9),
    ],
)
def test_sizes_and_rates_are_read(parse: Callable[[str], float], text: str, value: float) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *((parse_size, text) for text in ("", "MB", "-1", "10", "20MBit", "999TB", "1e6")),
        *((parse_rate, text) for text in ("", "20", "20MB", "1bit", "fast")),
    ],
)
def test_nonsense_sizes_and_rates_are_refused(parse: Callable[[str], float], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write for example"):
        parse(text)
