"""Processes that die while they fill, and what the next one finds. Run as a module.

The module's process imports everything once and then forks for each life, so that hundreds of
deaths take seconds. It reads cases as JSON lines and answers each with a JSON line. A case names a
directory and the deaths in it, one after the other: before a numbered disk call, or after some
seconds. After the last death one more life must find what it needs and end with a sound directory.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import uvloop

from tests.support.cache_disk import FaultyDisk
from tests.support.cache_origin import (
    Act,
    ScriptedOrigin,
    content,
    deliver,
    object_id,
    read_all,
    until,
)
from tests.support.cache_runs import Caches, open_files

SIZE = 2_530_003
"""The last piece ends no chunk: only the commit makes it durable."""
CHUNK = 64 * 1024
DATA = content(SIZE)


class CountedOrigin(ScriptedOrigin):
    """Writes down in a file how much it sent, for those who live longer.

    Or, with `announce`, is slow and prints where it is.
    """

    def __init__(self, folder: Path, *, breaks: bool, announce: bool = False) -> None:
        script = [Act(break_at=SIZE // 3)] if breaks else []
        super().__init__(DATA, script=script, piece=40_000)
        self._log = folder / "sent"
        self._announce = announce

    async def allowed_beyond(self, offset: int) -> None:
        if self._announce:
            print(offset, flush=True)
            await asyncio.sleep(0.01)
            return
        with self._log.open("a") as log:
            log.write(f"{min(self.piece, SIZE - offset)}\n")

    def total(self) -> int:
        if not self._log.exists():
            return 0
        return sum(int(line) for line in self._log.read_text().splitlines())


async def live(folder: Path, disk: FaultyDisk, *, announce: bool = False) -> None:
    """A fill that breaks once, with three readers at different offsets."""
    caches = Caches(folder / "cache")
    origin = CountedOrigin(folder, breaks=True, announce=announce)
    async with caches.open(disk=disk, chunk=CHUNK, linger=0.0) as cache:

        async def device(start: int) -> None:
            async with await cache.acquire(object_id("a"), origin) as reader:
                assert await read_all(reader, start) == DATA[start:]

        await asyncio.gather(*(device(start) for start in (0, SIZE // 2, SIZE - 1)))
        await until(lambda: cache.figures().fills == 0)


async def survive(folder: Path) -> dict[str, Any]:
    """The life after: everything is right, nothing is left over."""
    caches = Caches(folder / "cache")
    origin = CountedOrigin(folder, breaks=False)
    found = caches.names("objects")
    before = open_files()
    async with caches.open(chunk=CHUNK) as cache:
        delivery = await deliver(cache, "a", origin)
        assert delivery.data == DATA
        assert delivery.cached == SIZE, "it was not served from the cache"
        await until(lambda: caches.names("objects") == [object_id("a")])
        await until(lambda: cache.figures().fills == 0)
    assert caches.names("partial") == []
    assert caches.names("trash") == []
    assert sorted(os.listdir(caches.path / "v1/objects" / object_id("a"))) == ["data", "meta"]
    assert (caches.path / "v1/objects" / object_id("a") / "data").read_bytes() == DATA
    assert open_files() <= before
    assert not found or not origin.opens, "a finished object was fetched again"
    return {"sent": origin.total(), "found": bool(found)}


def in_a_child(life: Any, kill_after: float | None = None) -> int:
    """Runs `life` in a forked process, killed after so many seconds; its wait status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            life()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def try_case(folder: Path, deaths: list[dict[str, Any]]) -> dict[str, Any]:
    folder.mkdir()
    killed = 0
    for death in deaths:
        disk = FaultyDisk(kill_at=death.get("call"))
        status = in_a_child(lambda disk=disk: uvloop.run(live(folder, disk)), death.get("seconds"))
        killed += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status) and status:
            return {"failed": "the life that was to be killed failed by itself"}
    result = folder / "result"
    status = in_a_child(lambda: result.write_text(json.dumps(uvloop.run(survive(folder)))))
    if status:
        return {"failed": "the life after failed, see its output"}
    return {**json.loads(result.read_text()), "killed": killed}


class Lives:
    """The test's end."""

    def __init__(self, pipe_in: IO[str], pipe_out: IO[str]) -> None:
        self._in = pipe_in
        self._out = pipe_out

    def case(self, folder: Path, deaths: list[dict[str, Any]]) -> dict[str, Any]:
        """Lets the deaths happen in a new directory; what the life after reports."""
        self._in.write(json.dumps({"folder": str(folder), "deaths": deaths}) + "\n")
        self._in.flush()
        answer: dict[str, Any] = json.loads(self._out.readline())
        assert "failed" not in answer, f"{deaths}: {answer['failed']}"
        return answer


@contextlib.contextmanager
def lives() -> Iterator[Lives]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.cache_crash"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Lives(process.stdin, process.stdout)
        process.stdin.close()


def main() -> None:
    for line in sys.stdin:
        case = json.loads(line)
        print(json.dumps(try_case(Path(case["folder"]), case["deaths"])), flush=True)


def live_slowly(folder: Path) -> None:
    """One life in no hurry that prints its progress, then "done", and waits to be ended."""
    uvloop.run(live(folder, FaultyDisk(), announce=True))
    print("done", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        live_slowly(Path(sys.argv[1]))
    else:
        main()
