"""Room on the disk: limits, reservations, what is evicted and what stays."""

import asyncio
import errno
import os
import time
from typing import Any

import pytest

from mender_gateway.cache import Bypass, Cache
from tests.support.cache_disk import FaultyDisk
from tests.support.cache_origin import (
    Act,
    ScriptedOrigin,
    content,
    fetch,
    object_id,
    read_all,
    until,
)
from tests.support.cache_runs import Caches, Run

MIB = 1024 * 1024


async def store(cache: Cache, name: str, size: int = MIB, age: float = 0) -> None:
    """Keeps an object that was served last `age` seconds ago."""
    before = cache.figures().commits
    await fetch(cache, name, ScriptedOrigin(content(size)))
    await until(lambda: cache.figures().commits == before + 1)
    path = f"{cache.path}/v1/objects/{object_id(name)}/data"
    os.utime(path, (time.time() - age, time.time() - age))


def test_the_oldest_served_goes_first(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        async with caches.open(max_size=3 * MIB + 100_000, linger=0.0) as cache:
            await store(cache, "old", age=300)
            await store(cache, "older", age=400)
            await store(cache, "recent", age=10)
            await until(lambda: cache.figures().open_entries == 0)
            async with await cache.acquire(object_id("new"), ScriptedOrigin(content(MIB))) as new:
                await read_all(new)
            await until(lambda: cache.figures().commits == 4)
        kept = {object_id(name) for name in ("old", "recent", "new")}
        assert set(caches.names("objects")) == kept
        assert caches.kinds().count("evicted") == 1

    run(scenario)


def test_serving_an_object_makes_it_younger(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        async with caches.open(check_every=0.0, touch_every=0.0) as cache:
            await store(cache, "a", age=1000)
            path = f"{cache.path}/v1/objects/{object_id('a')}/data"
            reader = cache.acquire_open(object_id("a"))
            assert reader is not None
            await until(lambda: os.stat(path).st_mtime > time.time() - 100)
            reader.release()

    run(scenario)


def test_what_is_being_served_stays(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        async with caches.open(max_size=2 * MIB + 100_000, linger=0.0) as cache:
            await store(cache, "served", age=500)
            await store(cache, "idle", age=100)
            reader = cache.acquire_open(object_id("served")) or await cache.acquire(
                object_id("served"), ScriptedOrigin(b"")
            )
            await store(cache, "new")
            assert await read_all(reader) == content(MIB)
            reader.release()
        assert set(caches.names("objects")) == {object_id("served"), object_id("new")}

    run(scenario)


def test_an_unused_entry_that_is_still_open_makes_room(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        async with caches.open(max_size=MIB + 100_000, linger=1000.0) as cache:
            await store(cache, "a", age=500)
            assert cache.figures().open_entries == 1
            await store(cache, "b")
        assert caches.names("objects") == [object_id("b")]

    run(scenario)


def test_without_room_nothing_is_evicted_and_callers_go_around(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        async with caches.open(max_size=2 * MIB, linger=0.0) as cache:
            await store(cache, "a", age=500)
            origin = ScriptedOrigin(content(3 * MIB))
            waiting = [cache.acquire(object_id("big"), origin) for _ in range(3)]
            for error in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(error, Bypass)
                assert error.reason == "room"
            with pytest.raises(Bypass):  # and does not ask the origin again at once
                await cache.acquire(object_id("big"), origin)
            assert len(origin.opens) == 1
            assert origin.closed == 1
            assert cache.figures().bypasses == 4
            assert cache.trouble is None
            await cache.start()
        assert caches.names("objects") == [object_id("a")]
        assert caches.names("partial") == []

    run(scenario)


def test_an_object_without_room_is_tried_again_later(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        async with caches.open(max_size=2 * MIB, no_room_pause=0.0, linger=0.0) as cache:
            origin = ScriptedOrigin(content(MIB))
            async with await cache.acquire(
                object_id("first"), ScriptedOrigin(content(2 * MIB - 1))
            ):
                with pytest.raises(Bypass):
                    await cache.acquire(object_id("second"), origin)
            await until(lambda: cache.figures().fills == 0)
            assert await fetch(cache, "second", origin) == origin.content

    run(scenario)


def test_room_that_others_use_is_waited_for(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        settings: dict[str, Any] = {"max_size": 3 * MIB, "room_patience": 60.0}
        async with caches.open(**settings) as cache, caches.open(**settings) as other:
            await store(cache, "a", 2 * MIB)
            served = await other.acquire(object_id("a"), ScriptedOrigin(b""))
            origin = ScriptedOrigin(content(2 * MIB, seed=2))
            coming = asyncio.create_task(fetch(cache, "b", origin))
            await until(lambda: len(origin.opens) == 1)
            # others find room meanwhile
            assert await fetch(cache, "c", ScriptedOrigin(content(100_000))) == content(100_000)
            assert not coming.done()
            served.release()
            assert await coming == origin.content
            assert len(origin.opens) == 1
            await until(lambda: cache.figures().fills == 0)
        assert object_id("a") not in caches.names("objects")
        assert object_id("b") in caches.names("objects")

    run(scenario)


def test_what_would_find_no_room_in_an_empty_cache_is_not_kept_waiting(
    run: Run, caches: Caches
) -> None:
    async def scenario() -> None:
        disk = FaultyDisk()
        async with caches.open(disk=disk, max_size=3 * MIB, room_patience=1000.0) as cache:
            await store(cache, "a")
            # one look, and one more after what is idle here was let go; a third would meet trouble
            disk.fail("statvfs", errno.EIO, first=2)
            with pytest.raises(Bypass) as bypass:
                await cache.acquire(object_id("b"), ScriptedOrigin(content(3 * MIB + 1)))
            assert bypass.value.reason == "room"
            assert caches.names("objects") == [object_id("a")]

    run(scenario)


def test_the_free_space_floor_is_kept(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        system = os.statvfs(caches.path.parent)
        free = system.f_bavail * system.f_frsize
        async with caches.open(min_free_space=free + 1024 * MIB) as cache:
            with pytest.raises(Bypass) as bypass:
                await cache.acquire(object_id("a"), ScriptedOrigin(content(MIB)))
            assert bypass.value.reason == "room"

    run(scenario)


def test_concurrent_fills_never_promise_the_same_room(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        async with caches.open(max_size=3 * MIB + 100_000) as cache:
            origins = [ScriptedOrigin(content(MIB), allowed=0) for _ in range(6)]
            results = await asyncio.gather(
                *(cache.acquire(object_id(str(n)), o) for n, o in enumerate(origins)),
                return_exceptions=True,
            )
            admitted = [r for r in results if not isinstance(r, BaseException)]
            assert len(admitted) == 3
            assert sum(isinstance(r, Bypass) for r in results) == 3
            assert (await cache.refresh_figures()).reserved_bytes == 3 * MIB
            for reader in admitted:
                reader.release()

    run(scenario)


def test_the_partial_of_a_dead_fill_makes_room(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        async with caches.open(give_up=0.2, max_size=2 * MIB) as cache:
            script = [Act(break_at=MIB), *[Act(fail=OSError("unreachable"))] * 9]
            broken = ScriptedOrigin(content(2 * MIB - 100_000), script=script)
            async with await cache.acquire(object_id("a"), broken) as reader:
                await read_all(reader, 0, MIB - 1)
                await until(lambda: cache.figures().fills == 0)
            assert caches.names("partial") == [object_id("a")]
            await store(cache, "b", 2 * MIB - 100_000)
        assert caches.names("partial") == []
        assert caches.names("objects") == [object_id("b")]

    run(scenario)


def test_figures_count_the_directory(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        async with caches.open() as cache:
            await store(cache, "a")
            figures = await cache.refresh_figures()
            assert figures.objects == 1
            assert figures.stored_bytes == MIB
            assert figures.misses == 1
            assert figures.origin_bytes == MIB
            assert figures.reserved_bytes == 0
            assert figures.free_bytes > 0
            assert figures.usable

    run(scenario)


def test_many_who_ask_for_figures_at_once_cost_one_count(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        disk = FaultyDisk()
        async with caches.open(disk=disk, count_every=1000.0) as cache:
            counted = disk.calls.count("statvfs")
            await store(cache, "a")
            reserved = disk.calls.count("statvfs") - counted
            for _ in range(50):
                await asyncio.gather(*(cache.recent_figures() for _ in range(20)))
            assert disk.calls.count("statvfs") == counted + reserved
            assert cache.figures().objects == 0
            assert (await cache.refresh_figures()).objects == 1
        async with caches.open(disk=disk, count_every=0.0) as cache:
            await store(cache, "b")
            async with asyncio.timeout(20):  # a count is good for a multiple of its time
                while (await cache.recent_figures()).objects != 2:
                    await asyncio.sleep(0.01)

    run(scenario)


def test_figures_wait_for_no_disk_that_does_not_answer(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        disk = FaultyDisk()
        disk.hanging = ["statvfs"]
        async with caches.open(disk=disk, count_every=0.0, count_patience=0.05) as cache:
            await store(cache, "a")
            await cache.refresh_figures()
            disk.going.clear()
            try:
                assert (await cache.recent_figures()).objects == 1
                assert await fetch(cache, "a", ScriptedOrigin(b"")) == content(MIB)
            finally:
                disk.going.set()

    run(scenario)
