"""A disk that fails: every device still gets every byte, once, and the cache heals by itself."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from mender_gateway.cache.disk import Disk
from mender_gateway.cache.layout import Layout
from tests.support.cache_disk import OPERATIONS, FaultyDisk
from tests.support.cache_origin import (
    Act,
    ScriptedOrigin,
    content,
    deliver,
    fetch,
    object_id,
    read_all,
    until,
)
from tests.support.cache_runs import Caches, run_scenario

SIZE = 1024 * 1024 + 5
WRITING = [name for name in OPERATIONS if name not in ("fstat", "stat", "lstat", "utime")]


@pytest.fixture
def caches(tmp_path: Path) -> Caches:
    return Caches(tmp_path / "cache")


async def rollout(caches: Caches, disk: FaultyDisk) -> None:
    """Three devices fetch one object, then another one, from a cache on the given disk."""
    async with caches.open(disk=disk, trouble_pause=0.0, no_room_pause=0.0, linger=0.0) as cache:
        for name in ("a", "b"):
            origin = ScriptedOrigin(content(SIZE), script=[Act(break_at=SIZE // 2)])
            devices = [asyncio.create_task(deliver(cache, name, origin)) for _ in range(3)]
            for delivery in await asyncio.gather(*devices):
                assert delivery.data == origin.content
                assert not delivery.aborted
        await until(lambda: cache.figures().fills == 0)


async def check_healed(caches: Caches) -> None:
    """A sound disk again: both objects are had whole, and nothing else is left."""
    async with caches.open(linger=0.0) as cache:
        for name in ("a", "b"):
            origin = ScriptedOrigin(content(SIZE))
            assert await fetch(cache, name, origin) == origin.content
        await until(lambda: len(caches.names("objects")) == 2 and not caches.names("partial"))
    assert caches.names("trash") == []
    for name in ("a", "b"):
        data = caches.path / "v1/objects" / object_id(name) / "data"
        assert data.read_bytes() == content(SIZE)


def calls_of_a_rollout(tmp_path: Path, name: str) -> int:
    counting = FaultyDisk()
    run_scenario(lambda: rollout(Caches(tmp_path / "counting"), counting))
    return counting.calls.count(name)


def check(tmp_path: Path, name: str, number: int, times: int | None) -> None:
    caches = Caches(tmp_path / f"{number}.{times}")
    disk = FaultyDisk()
    disk.fail(name, errno.EIO, first=number, times=times)
    run_scenario(lambda: rollout(caches, disk))
    assert times is None or caches.kinds().count("trouble") <= times
    run_scenario(lambda: check_healed(caches))


@pytest.mark.full
@pytest.mark.parametrize("times", [1, 2, None])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_failure_of_any_single_call_harms_no_device(
    tmp_path: Path, name: str, times: int | None
) -> None:
    for number in range(calls_of_a_rollout(tmp_path, name)):
        check(tmp_path, name, number, times)


@pytest.mark.parametrize("times", [1, None], ids=["once", "from then on"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_failing_call_harms_no_device(tmp_path: Path, name: str, times: int | None) -> None:
    calls = calls_of_a_rollout(tmp_path, name)
    for number in range(0, calls, max(1, calls // 6)):
        check(tmp_path, name, number, times)


@pytest.mark.parametrize(
    "error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.ENOLCK]
)
def test_every_kind_of_disk_trouble_is_survived_and_healed(caches: Caches, error: int) -> None:
    async def scenario() -> None:
        disk = FaultyDisk()
        origin = ScriptedOrigin(content(SIZE), allowed=SIZE // 2)
        async with caches.open(disk=disk, trouble_pause=0.0) as cache:
            devices = [asyncio.create_task(deliver(cache, "a", origin)) for _ in range(3)]
            await until(lambda: origin.sent == SIZE // 2)
            disk.fail([*WRITING], error, when=lambda path: path.startswith(str(caches.path)))
            origin.allow(None)
            for delivery in await asyncio.gather(*devices):
                assert delivery.data == origin.content
            for _ in range(3):
                assert (await deliver(cache, "b", origin)).data == origin.content
            assert cache.trouble is not None
            assert not cache.figures().usable
            assert caches.kinds().count("trouble") == 1
            disk.heal()
            assert (await deliver(cache, "a", origin)).cached == SIZE
            await until(lambda: cache.trouble is None)
            assert caches.kinds().count("healed") == 1
            assert await fetch(cache, "a", ScriptedOrigin(b"")) == origin.content

    run_scenario(scenario)


def test_after_trouble_the_disk_is_left_alone_for_a_while(caches: Caches) -> None:
    async def scenario() -> None:
        disk = FaultyDisk()
        async with caches.open(disk=disk, trouble_pause=1000.0) as cache:
            origin = ScriptedOrigin(content(SIZE))
            assert await fetch(cache, "a", origin) == origin.content
            await until(lambda: cache.figures().commits == 1)
            disk.fail("pwritev", errno.EIO, times=1)
            assert (await deliver(cache, "b", origin)).data == origin.content
            await until(lambda: cache.figures().fills == 0)
            writes = disk.calls.count("mkdir")
            assert (await deliver(cache, "c", origin)).around == SIZE
            assert disk.calls.count("mkdir") == writes
            assert (await deliver(cache, "a", origin)).cached == SIZE  # what is stored is served
            assert await cache.probe() is None
            assert (await deliver(cache, "c", origin)).cached == SIZE

    run_scenario(scenario)


def test_a_disk_that_was_in_trouble_for_a_moment_is_back_in_a_moment(caches: Caches) -> None:
    """The pause is short at first, and grows only while the trouble goes on."""

    async def scenario() -> None:
        disk = FaultyDisk()
        origin = ScriptedOrigin(content(SIZE))
        async with caches.open(disk=disk, trouble_pause=0.05, longest_trouble_pause=60.0) as cache:

            async def attempts(seconds: float) -> int:
                """How often the disk is tried while devices keep coming."""
                before, loop = disk.calls.count("mkdir"), asyncio.get_running_loop()
                end = loop.time() + seconds
                while loop.time() < end:
                    assert (await deliver(cache, "a", origin)).data == origin.content
                    await asyncio.sleep(0.005)
                return disk.calls.count("mkdir") - before

            disk.fail("mkdir", errno.EROFS)
            assert (await deliver(cache, "a", origin)).around == SIZE
            assert 0 < await attempts(2.0) <= 6  # after 0.05, 0.1, 0.2, 0.4 and 0.8 s
            disk.heal()
            assert await cache.probe() is None
            disk.fail("pwritev", errno.EIO, times=1)
            assert (await deliver(cache, "b", origin)).data == origin.content
            await until(lambda: cache.figures().fills == 0)
            await asyncio.sleep(0.06)  # the first pause again
            assert (await deliver(cache, "b", origin)).cached == SIZE
            await until(lambda: cache.trouble is None)
        assert caches.kinds().count("trouble") == 2

    run_scenario(scenario)


def test_bytes_that_may_not_have_reached_the_disk_are_not_served(caches: Caches) -> None:
    async def scenario() -> None:
        disk = FaultyDisk()
        disk.fail("fdatasync", errno.EIO, first=2)
        origin = ScriptedOrigin(content(SIZE), allowed=300_000)
        async with caches.open(disk=disk) as cache:
            async with await cache.acquire(object_id("a"), origin) as reader:
                await until(lambda: disk.calls.count("fdatasync") == 2)
                await until(lambda: reader.ready(0) == 300_000)
                origin.allow(SIZE - 1)
                await until(lambda: cache.trouble is not None)
                sound = reader.ready(0)
                assert 256 * 1024 <= sound <= 300_000
                assert await read_all(reader, 0, sound) == origin.content[:sound]

    run_scenario(scenario)


def test_a_disk_that_does_not_answer_is_gone_around(caches: Caches) -> None:
    async def scenario() -> None:
        disk = FaultyDisk()
        origin = ScriptedOrigin(content(SIZE), allowed=SIZE // 2)
        async with caches.open(disk=disk, disk_patience=0.2, look_patience=0.2) as cache:
            device = asyncio.create_task(deliver(cache, "a", origin))
            await until(lambda: origin.sent == SIZE // 2)
            disk.going.clear()
            try:
                origin.allow(None)
                assert (await device).data == origin.content
                assert (await deliver(cache, "a", origin)).data == origin.content
                assert (await deliver(cache, "b", origin)).data == origin.content
                async with asyncio.timeout(0.2):  # known by now, nobody waits for it again
                    for name in ("a", "b", "c", "d"):
                        assert (await deliver(cache, name, origin)).around == SIZE
            finally:
                disk.going.set()
            await until(lambda: cache.figures().fills == 0)

    run_scenario(scenario)


def test_a_write_that_hangs_is_noticed_while_the_origin_is_silent(caches: Caches) -> None:
    async def scenario() -> None:
        disk = FaultyDisk()
        origin = ScriptedOrigin(content(SIZE), allowed=1000)
        async with caches.open(disk=disk, disk_patience=0.2) as cache:
            device = asyncio.create_task(deliver(cache, "a", origin))
            await until(lambda: "pwritev" in disk.calls)
            disk.going.clear()
            try:
                origin.allow(2000)
                assert (await device).data == origin.content
            finally:
                disk.going.set()

    run_scenario(scenario)


def test_found_bytes_that_cannot_be_read_in_time_are_gone_around(caches: Caches) -> None:
    async def scenario() -> None:
        disk = FaultyDisk()
        origin = ScriptedOrigin(content(SIZE), allowed=SIZE // 2)
        async with caches.open() as cache:
            async with await cache.acquire(object_id("a"), origin) as reader:
                await read_all(reader, 0, SIZE // 2)
        disk.hanging = ["preadv"]
        disk.going.clear()
        async with caches.open(disk=disk, disk_patience=0.2) as cache:
            try:
                assert (await deliver(cache, "a", origin)).data == origin.content
            finally:
                disk.going.set()
            await until(lambda: cache.figures().fills == 0)

    run_scenario(scenario)


def test_an_unusable_directory_at_start_is_no_error_and_heals(caches: Caches) -> None:
    async def scenario() -> None:
        caches.path.write_text("a file where the directory should be")
        origin = ScriptedOrigin(content(SIZE))
        async with caches.open(trouble_pause=0.0) as cache:
            assert cache.trouble is not None
            assert (await deliver(cache, "a", origin)).around == SIZE
            assert await cache.probe() is not None
            caches.path.unlink()
            assert (await deliver(cache, "a", origin)).cached == SIZE
            await until(lambda: cache.trouble is None)
        assert caches.kinds().count("trouble") == 1

    run_scenario(scenario)


@pytest.mark.parametrize("call", ["mkdir", "listdir", "stat", "flock"])
def test_a_disk_that_does_not_answer_at_start_keeps_nobody_waiting(
    caches: Caches, call: str
) -> None:
    async def scenario() -> None:
        async with caches.open(linger=0.0) as cache:
            await fetch(cache, "b", ScriptedOrigin(content(SIZE)))
            await until(lambda: cache.figures().commits == 1)
            await cache.remember(object_id("c"), b"link")
        disk = FaultyDisk()
        disk.hanging = [call]
        disk.going.clear()
        origin = ScriptedOrigin(content(SIZE))
        short = {"look_patience": 0.3, "disk_patience": 0.3, "count_patience": 0.1}
        try:
            async with caches.open(disk=disk, **short, trouble_pause=0.0) as cache:
                assert (await deliver(cache, "a", origin)).data == origin.content
                disk.going.set()
                async with asyncio.timeout(30):  # a busy machine may take the disk for slow again
                    while (await deliver(cache, "a", origin)).cached < SIZE:
                        await asyncio.sleep(0.1)
        finally:
            disk.going.set()

    run_scenario(scenario)


@pytest.mark.parametrize("moment", ["during a fill", "between fills", "while served"])
@pytest.mark.parametrize("what", ["everything", "v1", "partial", "objects", "trash", "content"])
def test_a_directory_that_vanishes_is_made_anew(caches: Caches, what: str, moment: str) -> None:
    async def scenario() -> None:
        layout = Layout(str(caches.path))
        origin = ScriptedOrigin(content(SIZE), allowed=SIZE // 2)

        def vanish() -> None:
            paths = {
                "everything": layout.path,
                "v1": layout.base,
                "partial": layout.partials,
                "objects": layout.objects,
                "trash": layout.trash,
            }
            if what == "content":
                for folder in (layout.partials, layout.objects):
                    for name in os.listdir(folder):
                        os.rename(f"{folder}/{name}", f"{caches.path}.{name}.{moment}")
            else:
                os.rename(paths[what], f"{caches.path}.{what}.removed")

        async with caches.open(check_every=0.0, trouble_pause=0.0) as cache:
            device = asyncio.create_task(deliver(cache, "a", origin))
            await until(lambda: origin.sent == SIZE // 2)
            if moment == "during a fill":
                vanish()
            origin.allow(None)
            assert (await device).data == origin.content
            await until(lambda: cache.figures().fills == 0)
            if moment == "between fills":
                vanish()
            again = await cache.acquire(object_id("a"), origin)
            if moment == "while served":
                vanish()
            assert await read_all(again) == origin.content
            again.release()
            for name in ("a", "b", "c"):
                await until(lambda: cache.figures().fills == 0)
                assert (await deliver(cache, name, origin)).data == origin.content
            await until(lambda: cache.figures().fills == 0)
        assert object_id("c") in caches.names("objects")
        async with caches.open() as cache:
            assert await fetch(cache, "c", ScriptedOrigin(b"")) == origin.content

    run_scenario(scenario)


class WithoutTrash(Disk):
    """A disk on which the trash cannot be written."""

    def rename(self, old: str, new: str) -> None:
        if "/trash/" in new:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), new)
        super().rename(old, new)


def test_a_trash_that_cannot_be_used_keeps_nothing_from_being_stored(caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(SIZE))
        async with caches.open(disk=WithoutTrash()) as cache:
            assert (await deliver(cache, "a", origin)).cached == SIZE
            await until(lambda: cache.figures().commits == 1)
            assert cache.trouble is None
        async with caches.open() as cache:
            assert await fetch(cache, "a", ScriptedOrigin(b"")) == origin.content
        assert caches.names("partial") == []

    run_scenario(scenario)


def test_an_object_replaced_by_hand_is_noticed(caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(SIZE))
        async with caches.open(linger=0.0) as cache:
            await fetch(cache, "a", origin)
            await until(lambda: cache.figures().commits == 1)
            await until(lambda: cache.figures().open_entries == 0)
            (caches.path / "v1/objects" / object_id("a") / "data").write_bytes(b"short")
            assert await fetch(cache, "a", origin) == origin.content
        assert len(origin.opens) == 2

    run_scenario(scenario)


@pytest.mark.parametrize("call", ["pwrite", "rename"])
def test_a_note_that_cannot_be_kept_leaves_nothing_behind(caches: Caches, call: str) -> None:
    async def scenario() -> None:
        disk = FaultyDisk()
        async with caches.open(disk=disk) as cache:
            await cache.remember(object_id("a"), b"https://storage/1")
            disk.fail(call, errno.ENOSPC, when=lambda path: "/note." in path)
            for number in range(3):
                await cache.remember(object_id("a"), b"https://storage/%d" % number)
            assert os.listdir(caches.path / "v1/partial" / object_id("a")) == ["note"]
            assert await cache.recall(object_id("a")) == b"https://storage/1"
            assert cache.trouble is None

    run_scenario(scenario)


class Swept(FaultyDisk):
    """Another process empties the trash as soon as something is in it, a number of times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def mkdir(self, path: str, mode: int = 0o700) -> None:
        super().mkdir(path, mode)
        if "/trash/" in path and self.times:
            self.times -= 1
            os.rmdir(path)


def test_a_process_that_empties_the_trash_is_no_trouble(caches: Caches) -> None:
    async def scenario() -> None:
        async with caches.open(disk=Swept(2)) as cache:
            assert await cache.probe() is None
        async with caches.open(disk=Swept(1000)) as cache:
            assert await cache.probe() is not None

    run_scenario(scenario)
