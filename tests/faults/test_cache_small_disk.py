"""Real small file systems: full, nearly full, read-only, smaller than what is wanted of them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cache_origin import ScriptedOrigin, content, deliver, fetch, object_id, until
from tests.support.cache_runs import Caches, run_scenario
from tests.support.small_disks import SmallDisk, needs_mounts, small_disk

MIB = 1024 * 1024
pytestmark = needs_mounts


@pytest.fixture(params=["ext4", "tmpfs"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SmallDisk]:
    with small_disk(tmp_path, 24, request.param) as disk:
        yield disk


def test_a_disk_that_fills_up_during_a_fill_is_not_noticed_by_devices(disk: SmallDisk) -> None:
    async def scenario() -> None:
        caches = Caches(disk.path / "cache")
        origin = ScriptedOrigin(content(8 * MIB), allowed=2 * MIB)
        async with caches.open(trouble_pause=0.0) as cache:
            devices = [asyncio.create_task(deliver(cache, "a", origin)) for _ in range(5)]
            await until(lambda: origin.sent == 2 * MIB)
            hog = disk.fill_up()
            origin.allow(None)
            for delivery in await asyncio.gather(*devices):
                assert delivery.data == origin.content
                assert delivery.cached > 0
                assert delivery.around > 0
            assert caches.kinds().count("trouble") == 1
            assert (await deliver(cache, "b", origin)).around == 8 * MIB  # no room now
            hog.unlink()
            assert (await deliver(cache, "a", origin)).cached == 8 * MIB
            await until(lambda: cache.trouble is None)
        assert caches.names("objects") == [object_id("a")]

    run_scenario(scenario)


def test_a_disk_that_turns_read_only_is_served_from_and_heals(disk: SmallDisk) -> None:
    async def scenario() -> None:
        caches = Caches(disk.path / "cache")
        stored = ScriptedOrigin(content(2 * MIB, seed=2))
        async with caches.open(trouble_pause=0.0, linger=0.0) as cache:
            assert await fetch(cache, "stored", stored) == stored.content
            await until(lambda: cache.figures().fills == 0)
            disk.remount("ro")
            origin = ScriptedOrigin(content(4 * MIB))
            for _ in range(3):
                assert (await deliver(cache, "a", origin)).around == 4 * MIB
            assert caches.kinds().count("trouble") == 1
            assert (await deliver(cache, "stored", stored)).cached == 2 * MIB
            disk.remount("rw")
            assert (await deliver(cache, "a", origin)).cached == 4 * MIB
            await until(lambda: cache.trouble is None)

    run_scenario(scenario)


def test_a_working_set_larger_than_the_disk_never_fills_it(disk: SmallDisk) -> None:
    async def scenario() -> None:
        caches = Caches(disk.path / "cache")
        lowest = disk.free()
        async with caches.open(min_free_space=4 * MIB, linger=0.0) as cache:
            for number in range(20):
                origin = ScriptedOrigin(content(3 * MIB, seed=number))
                delivery = await deliver(cache, str(number), origin)
                assert delivery.data == origin.content
                assert delivery.around == 0
                await until(lambda: cache.figures().fills == 0)
                lowest = min(lowest, disk.free())
            assert cache.figures().evictions > 10
        assert lowest >= 4 * MIB
        assert "trouble" not in caches.kinds()

    run_scenario(scenario)


def test_fills_at_the_same_time_never_overcommit_the_disk(disk: SmallDisk) -> None:
    async def scenario() -> None:
        caches = Caches(disk.path / "cache")
        async with caches.open(min_free_space=2 * MIB, linger=0.0) as cache:
            origins = [ScriptedOrigin(content(4 * MIB, seed=n), allowed=0) for n in range(12)]
            tasks = [
                asyncio.create_task(deliver(cache, str(n), origin))
                for n, origin in enumerate(origins)
            ]
            await until(lambda: cache.figures().misses + cache.figures().bypasses == 12)
            for origin in origins:
                origin.allow(None)
            deliveries = await asyncio.gather(*tasks)
            for origin, delivery in zip(origins, deliveries, strict=True):
                assert delivery.data == origin.content
            assert 3 <= sum(delivery.cached > 0 for delivery in deliveries) <= 5
            await until(lambda: cache.figures().fills == 0)
            assert disk.free() >= 2 * MIB
        assert "trouble" not in caches.kinds()

    run_scenario(scenario)
