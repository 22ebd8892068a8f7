"""Power cuts: what the block device held at some instant, mounted anew by the next life.

A process fills a cache on a small ext4; at random instants all its threads are stopped and the
image behind the mount is copied. The copy lacks whatever the kernel had not written back, as a disk
does after a power cut.
"""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from tests.support.cache_crash import DATA, SIZE, survive
from tests.support.cache_origin import object_id
from tests.support.small_disks import SmallDisk, mounted, needs_mounts, small_disk

pytestmark = needs_mounts


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path, 24) as disk:
        yield disk


def stop(process: "subprocess.Popen[str]") -> None:
    """Stops the process; returns once none of its threads is in a disk call any more."""
    process.send_signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{process.pid}/task")
    deadline = time.monotonic() + 10
    while any(_state(task) not in "TZX" for task in tasks.iterdir()):
        assert time.monotonic() < deadline, "the process does not stop"


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


@pytest.mark.parametrize("seed", range(4))
def test_a_power_cut_loses_only_time(tmp_path: Path, disk: SmallDisk, seed: int) -> None:
    luck = random.Random(seed)
    image = tmp_path / "disk.img"
    copies: list[Path] = []
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.cache_crash", str(disk.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "done" or luck.random() < 0.1:
                stop(process)
                copy = tmp_path / f"cut{len(copies)}.img"
                shutil.copyfile(image, copy)
                copies.append(copy)
                process.send_signal(signal.SIGCONT)
            if line.strip() == "done":
                break
        process.kill()
    assert len(copies) > 2
    lives = []
    for number, copy in enumerate(copies):
        folder = tmp_path / f"life{number}"
        folder.mkdir()
        with mounted(copy, folder) as after:
            finished = after.path / "cache/v1/objects" / object_id("a") / "data"
            if finished.exists():
                assert finished.read_bytes() == DATA
            lives.append(uvloop.run(survive(after.path)))
    assert lives[-1]["found"], "a finished object did not survive"
    assert min(life["sent"] for life in lives[:-1]) < SIZE, "nothing durable was kept"
