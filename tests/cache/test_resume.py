"""An origin that breaks: the fill goes on where it stopped, and never mixes two objects."""

import asyncio

import pytest

from mender_gateway.cache import FillBroken
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
DOWN = Act(fail=OSError("unreachable"))


def test_a_broken_download_goes_on_where_it_stopped(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        script = [Act(break_at=MIB + 7), DOWN, Act(break_at=2 * MIB)]
        origin = ScriptedOrigin(content(3 * MIB), script=script)
        async with caches.open() as cache:
            assert await fetch(cache, "a", origin) == origin.content
            await until(lambda: cache.figures().commits == 1)
            assert cache.figures().origin_bytes == 3 * MIB
        assert origin.opens == [
            (0, None),
            (MIB + 7, '"v1"'),
            (MIB + 7, '"v1"'),
            (2 * MIB, '"v1"'),
        ]
        assert caches.kinds().count("fill broke") == 3

    run(scenario)


def test_an_end_before_the_end_is_resumed_like_a_break(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB), script=[Act(end_at=1000)])
        async with caches.open() as cache:
            assert await fetch(cache, "a", origin) == origin.content
        assert [offset for offset, _ in origin.opens] == [0, 1000]

    run(scenario)


def test_a_weak_etag_is_resumed_by_date(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB), etag='W/"1"', script=[Act(break_at=1000)])
        async with caches.open() as cache:
            assert await fetch(cache, "a", origin) == origin.content
        assert origin.opens[1] == (1000, "Mon, 05 Jan 2026 00:00:00 GMT")

    run(scenario)


def test_storage_that_ignores_ranges_is_skipped_up_to_the_mark(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        script = [Act(break_at=MIB), Act(ignore_range=True)]
        origin = ScriptedOrigin(content(2 * MIB), script=script)
        async with caches.open() as cache:
            assert await fetch(cache, "a", origin) == origin.content
            assert cache.figures().origin_bytes == 3 * MIB

    run(scenario)


def test_a_source_that_starts_too_late_is_not_used(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        script = [Act(shift=5), Act(break_at=1000), Act(shift=1), Act()]
        origin = ScriptedOrigin(content(MIB), script=script)
        async with caches.open() as cache:
            assert await fetch(cache, "a", origin) == origin.content
        assert [offset for offset, _ in origin.opens] == [0, 0, 1000, 1000]

    run(scenario)


def test_bytes_that_are_here_are_served_while_the_origin_is_away(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB), script=[Act(break_at=1000), *[DOWN] * 50])
        async with caches.open() as cache:
            async with await cache.acquire(object_id("a"), origin) as first:
                await read_all(first, 0, 1000)
                await until(lambda: len(origin.opens) > 1)
                async with await cache.acquire(object_id("a"), origin) as second:
                    assert second.outcome == "joined"
                    assert await read_all(second, 0, 1000) == origin.content[:1000]
                    origin.script.clear()
                    assert await read_all(second, 1000) == origin.content[1000:]

    run(scenario)


def test_a_changed_object_aborts_its_readers_and_is_fetched_anew(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        old = ScriptedOrigin(content(MIB), script=[Act(break_at=1000)])
        new = ScriptedOrigin(content(MIB, seed=2), etag='"v2"')
        async with caches.open() as cache:
            async with await cache.acquire(object_id("a"), old) as reader:
                old.content, old.attributes = new.content, new.attributes
                with pytest.raises(FillBroken) as broken:
                    await read_all(reader)
                assert broken.value.changed
                assert not broken.value.resumable
            assert await fetch(cache, "a", new) == new.content
            await until(lambda: cache.figures().commits == 1)
        assert "changed" in caches.kinds()
        assert caches.names("partial") == []

    run(scenario)


def test_without_a_validator_a_broken_download_is_thrown_away(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(
            content(MIB), etag=None, last_modified=None, script=[Act(break_at=1000)]
        )
        async with caches.open() as cache:
            async with await cache.acquire(object_id("a"), origin) as reader:
                with pytest.raises(FillBroken) as broken:
                    await read_all(reader)
                assert not broken.value.resumable
                assert not broken.value.changed
            await until(lambda: cache.figures().fills == 0)
            assert caches.names("partial") == []
            assert await fetch(cache, "a", origin) == origin.content

    run(scenario)


def test_without_a_validator_a_break_before_the_first_byte_is_harmless(
    run: Run, caches: Caches
) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(
            content(MIB), etag=None, last_modified=None, script=[Act(break_at=0)]
        )
        async with caches.open() as cache:
            assert await fetch(cache, "a", origin) == origin.content

    run(scenario)


def test_an_expired_link_waits_for_a_newer_one(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        expired = Act(refuse=ValueError("403"))
        old = ScriptedOrigin(content(MIB), script=[Act(break_at=1000), *[expired] * 1000])
        new = ScriptedOrigin(old.content)
        async with caches.open() as cache:
            async with await cache.acquire(object_id("a"), old) as reader:
                await read_all(reader, 0, 1000)
                await until(lambda: len(old.opens) > 3)
                async with await cache.acquire(object_id("a"), new) as other:
                    assert other.outcome == "joined"
                    assert await read_all(reader, 1000) == old.content[1000:]
        assert new.opens == [(1000, '"v1"')]

    run(scenario)


def test_a_newer_link_that_comes_while_the_first_is_refused_is_used(
    run: Run, caches: Caches
) -> None:
    async def scenario() -> None:
        held = asyncio.Event()
        old = ScriptedOrigin(content(MIB), script=[Act(hold=held, refuse=ValueError("403"))])
        new = ScriptedOrigin(old.content)
        async with caches.open() as cache:
            first = asyncio.create_task(fetch(cache, "a", old))
            await until(lambda: len(old.opens) == 1)
            second = asyncio.create_task(fetch(cache, "a", new))
            await asyncio.sleep(0)
            held.set()
            assert await first == await second == old.content
        assert len(old.opens) == len(new.opens) == 1

    run(scenario)


def test_a_silent_source_counts_as_broken(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB), allowed=1000)
        async with caches.open(silence=0.05) as cache:
            async with await cache.acquire(object_id("a"), origin) as reader:
                await until(lambda: len(origin.opens) > 1)
                origin.allow(None)
                assert await read_all(reader) == origin.content

    run(scenario)


def test_giving_up_aborts_the_readers_and_keeps_the_bytes(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(2 * MIB), script=[Act(break_at=MIB), *[DOWN] * 10])
        async with caches.open(give_up=0.3) as cache:
            async with await cache.acquire(object_id("a"), origin) as reader:
                with pytest.raises(FillBroken) as broken:
                    await read_all(reader)
                assert not broken.value.resumable
                assert await read_all(reader, 0, MIB) == origin.content[:MIB]
            await until(lambda: cache.figures().fills == 0)
            origin.script.clear()
            assert await fetch(cache, "a", origin) == origin.content
        assert origin.opens[-1] == (MIB, '"v1"')
        assert {"gave up", "taken over"} <= set(caches.kinds())

    run(scenario)


def test_a_break_behind_the_last_byte_does_not_matter(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB), script=[Act(break_at=MIB)])
        async with caches.open() as cache:
            assert await fetch(cache, "a", origin) == origin.content
        assert len(origin.opens) == 1

    run(scenario)
