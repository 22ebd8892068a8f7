"""Two processes' caches on one directory against a simple model, under random use and faults.

The model: what a reader reads is the version of the object whose ETag it was given; a finished
object in the directory is some version, whole; when all faults are over, everything can be had; and
in the end nothing is left open or lying about.
"""

import asyncio
import contextlib
import errno
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mender_gateway.cache import Bypass, Cache, FillBroken, OriginRefused, Reader
from tests.support.cache_disk import OPERATIONS, FaultyDisk
from tests.support.cache_origin import Act, ScriptedOrigin, content, object_id, until
from tests.support.cache_runs import Caches, open_files

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Faults come from the model; a disk that is slow besides would only cost time."""
NAMES = ("a", "b", "c", "d")
SIZES = {"a": 300_000, "b": 131_072, "c": 500_001, "d": 1}
LIMIT = 800_000
CHUNK = 65536
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES)
names = st.sampled_from(NAMES)
which = st.integers(0, 1)


@dataclass(slots=True)
class Reading:
    reader: Reader
    cache: int
    name: str
    offset: int


class Machine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cache-machine", dir=MEMORY))
        self.before = open_files()
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.caches = Caches(self.folder / "cache")
        self.disks = [FaultyDisk(), FaultyDisk()]
        self.faulty = False
        self.wiped = 0
        self.versions: dict[tuple[str, str], bytes] = {}
        self.origins = {}
        for seed, name in enumerate(NAMES):
            data = content(SIZES[name], seed)
            self.origins[name] = ScriptedOrigin(data, piece=20_000, allowed=0)
            self.versions[name, '"v1"'] = data
        self.readings: list[Reading] = []
        self.stacks = [contextlib.AsyncExitStack(), contextlib.AsyncExitStack()]
        self.running: list[Cache] = []
        self.do(self.open_caches())

    def do(self, work: Any) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(30):
                result = await work
                for _ in range(3):
                    await asyncio.sleep(0)
                return result

        return self.runner.run(bounded())

    async def open_caches(self) -> None:
        for number in (0, 1):
            self.running.append(await self.open_cache(number))

    async def open_cache(self, number: int) -> Cache:
        options = {
            "chunk": CHUNK,
            "max_size": LIMIT,
            "poll": 0.005,
            "linger": 0.01,
            "check_every": 0.0,
            "trouble_pause": 0.0,
            "no_room_pause": 0.0,
            "open_patience": 0.5,
        }
        opening = self.caches.open(disk=self.disks[number], **options)
        return await self.stacks[number].enter_async_context(opening)

    # -- what devices do ---------------------------------------------------------------------

    @rule(number=which, name=names, start=st.floats(0, 1))
    def acquire(self, number: int, name: str, start: float) -> None:
        origin = self.origins[name]
        try:
            reader = self.do(self.running[number].acquire(object_id(name), origin))
        except Bypass as bypass:
            if bypass.reason == "room" or self.faulty or self.wiped:
                return
            raise
        except OriginRefused:
            return
        except OSError:
            assert any(act.fail for act in origin.script) or len(origin.opens) > 1
            return
        length = len(self.versions[name, reader.attributes.etag])
        assert reader.attributes.length == length
        self.readings.append(Reading(reader, number, name, int(start * length)))

    @rule(chosen=st.integers(0, 100), size=st.integers(1, 200_000))
    def read(self, chosen: int, size: int) -> None:
        if not self.readings:
            return
        reading = self.readings[chosen % len(self.readings)]
        reader = reading.reader
        data = self.versions[reading.name, str(reader.attributes.etag)]
        ready = min(reader.ready(reading.offset), reading.offset + size)
        assert ready <= len(data)
        got = os.pread(reader.fd, ready - reading.offset, reading.offset)
        assert got == data[reading.offset : ready]
        reading.offset = ready

    @rule(chosen=st.integers(0, 100))
    def leave(self, chosen: int) -> None:
        if self.readings:
            self.release(self.readings.pop(chosen % len(self.readings)))

    def release(self, reading: Reading) -> None:
        async def released() -> None:
            reading.reader.release()

        self.do(released())

    @rule(number=which, name=names)
    def hang_up_while_waiting(self, number: int, name: str) -> None:
        async def hang_up() -> None:
            asking = asyncio.create_task(
                self.running[number].acquire(object_id(name), self.origins[name])
            )
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait({asking})
            if not asking.cancelled() and asking.exception() is None:
                asking.result().release()

        self.do(hang_up())

    # -- what the world does -----------------------------------------------------------------

    @rule(name=names, share=st.floats(0, 1))
    def more_arrives(self, name: str, share: float) -> None:
        origin = self.origins[name]
        origin.allow(max(origin.allowed or 0, int(share * len(origin.content))))

    @rule(name=names)
    def the_uplink_breaks(self, name: str) -> None:
        self.origins[name].cut()

    @rule(
        name=names,
        act=st.sampled_from(
            [
                Act(fail=OSError("unreachable")),
                Act(refuse=ValueError("403")),
                Act(ignore_range=True),
                Act(break_at=70_000),
                Act(end_at=100_000),
            ]
        ),
    )
    def trouble_is_coming(self, name: str, act: Act) -> None:
        self.origins[name].script.append(act)

    @rule(name=names)
    def the_object_changes(self, name: str) -> None:
        number = sum(known == name for known, _ in self.versions) + 1
        data = content(SIZES[name] + number, seed=number * 10)
        self.versions[name, f'"v{number}"'] = data
        self.origins[name].replace(data, f'"v{number}"')

    @rule(
        number=which,
        names=st.sets(st.sampled_from(OPERATIONS), min_size=1, max_size=4),
        error=st.sampled_from(ERRORS),
        first=st.integers(0, 20),
        times=st.sampled_from([1, 3, None]),
    )
    def the_disk_fails(
        self, number: int, names: set[str], error: int, first: int, times: int | None
    ) -> None:
        self.faulty = True
        self.disks[number].fail(sorted(names), error, first=first, times=times)

    @rule(number=which)
    def a_process_restarts(self, number: int) -> None:
        for reading in [r for r in self.readings if r.cache == number]:
            self.readings.remove(reading)
            self.release(reading)
        self.do(self.stacks[number].aclose())
        self.running[number] = self.do(self.open_cache(number))

    @rule(below=st.sampled_from(["", "v1", "v1/partial", "v1/objects", "v1/trash"]))
    def the_directory_is_removed(self, below: str) -> None:
        path = self.caches.path / below
        if path.exists():
            self.wiped += 1
            os.rename(path, self.folder / f"removed{self.wiped}")

    @rule()
    def everything_heals(self) -> None:
        """Without new faults every reader gets its bytes or a clear end, and all can be had."""
        for disk in self.disks:
            disk.heal()
        for origin in self.origins.values():
            origin.script.clear()
            origin.allow(None)
        self.do(self.finish())
        for origin in self.origins.values():
            origin.allow(0)

    async def finish(self) -> None:
        for reading in self.readings:
            reader = reading.reader
            data = self.versions[reading.name, str(reader.attributes.etag)]
            while reading.offset < len(data):
                try:
                    ready = await reader.wait(reading.offset)
                except FillBroken:
                    break
                got = os.pread(reader.fd, ready - reading.offset, reading.offset)
                assert got == data[reading.offset : ready]
                reading.offset = ready
            reader.release()
        self.readings.clear()
        await until(lambda: all(c.figures().fills == 0 for c in self.running))
        await until(lambda: all(c.figures().open_entries == 0 for c in self.running))
        for name, origin in self.origins.items():
            for number in (0, 1):
                await self.fetch(number, name, origin)
        self.faulty = False

    async def fetch(self, number: int, name: str, origin: ScriptedOrigin) -> None:
        cache = self.running[number]
        async with asyncio.timeout(20):
            while True:
                try:
                    async with await cache.acquire(object_id(name), origin) as reader:
                        data = self.versions[name, str(reader.attributes.etag)]
                        at = 0
                        while at < len(data):
                            ready = await reader.wait(at)
                            assert os.pread(reader.fd, ready - at, at) == data[at:ready]
                            at = ready
                        return
                except (Bypass, FillBroken):
                    await asyncio.sleep(0.01)  # room is still being made, an old version dropped

    # -- what must always hold ---------------------------------------------------------------

    @invariant()
    def finished_objects_are_whole(self) -> None:
        for name in NAMES:
            folder = self.caches.path / "v1/objects" / object_id(name)
            try:
                meta = json.loads((folder / "meta").read_text())
                data = (folder / "data").read_bytes()
                if meta != json.loads((folder / "meta").read_text()):
                    continue  # replaced between the two
            except (FileNotFoundError, NotADirectoryError):
                continue
            assert data == self.versions[name, meta["etag"]]

    @invariant()
    def the_limit_is_kept(self) -> None:
        if self.wiped:
            return
        used = 0
        for folder, _, files in os.walk(self.caches.path / "v1"):
            for file in files:
                if file.startswith("data"):
                    with contextlib.suppress(FileNotFoundError):
                        used += os.stat(f"{folder}/{file}").st_blocks * 512
        assert used <= LIMIT + len(NAMES) * 4096

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        try:
            self.everything_heals()
            for stack in self.stacks:
                self.do(stack.aclose())
            self.do(self.open_cache(0))  # a start clears what a failing disk left
            self.do(self.stacks[0].aclose())
            assert open_files() <= self.before
            assert self.caches.names("trash") == []
        finally:
            self.runner.close()
            shutil.rmtree(self.folder, ignore_errors=True)


def bounds(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # threads make it too restless to be shrunk
    )


def test_random_use_and_faults_agree_with_the_model() -> None:
    run_state_machine_as_test(Machine, settings=bounds(20, 30))


@pytest.mark.full
def test_much_random_use_and_faults_agree_with_the_model() -> None:
    run_state_machine_as_test(Machine, settings=bounds(300, 60))
