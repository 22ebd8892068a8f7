"""One process: miss, join, hit, and what each leaves on the disk."""

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mender_gateway.cache import Cache, FillBroken, OriginRefused
from mender_gateway.cache.disk import Disk
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


def test_a_miss_is_served_while_it_arrives_and_is_kept(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        data = content(3 * MIB + 17)
        origin = ScriptedOrigin(data, allowed=MIB)
        async with caches.open() as cache:
            async with await cache.acquire(object_id("a"), origin) as reader:
                assert reader.outcome == "miss"
                assert reader.attributes == origin.attributes
                assert await read_all(reader, 0, MIB) == data[:MIB]
                assert reader.ready(MIB) == MIB
                origin.allow(None)
                assert await read_all(reader, MIB) == data[MIB:]
            await until(lambda: cache.figures().commits == 1)
        assert caches.names("objects") == [object_id("a")]
        assert caches.names("partial") == []
        assert caches.names("trash") == []

    run(scenario)


def test_a_finished_object_is_data_and_meta_alone(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        data = content(MIB)
        async with caches.open() as cache:
            await cache.remember(object_id("a"), b"https://storage/secret")
            assert await fetch(cache, "a", ScriptedOrigin(data)) == data
            await until(lambda: cache.figures().commits == 1)
        folder = caches.path / "v1/objects" / object_id("a")
        assert sorted(os.listdir(folder)) == ["data", "meta"]
        assert (folder / "data").read_bytes() == data
        meta = json.loads((folder / "meta").read_text())
        assert meta["length"] == len(data)
        assert meta["sha256"] == hashlib.sha256(data).hexdigest()
        assert meta["etag"] == '"v1"'

    run(scenario)


def test_many_readers_cause_one_download(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        data = content(5 * MIB)
        origin = ScriptedOrigin(data)

        async def device(cache: Cache, number: int) -> str:
            async with await cache.acquire(object_id("a"), origin) as reader:
                start = number * 1000
                assert await read_all(reader, start) == data[start:]
                return reader.outcome

        async with caches.open() as cache:
            outcomes = await asyncio.gather(*(device(cache, n) for n in range(50)))
            assert sorted(set(outcomes)) == ["joined", "miss"]
            assert outcomes.count("miss") == 1
        assert origin.opens == [(0, None)]
        assert origin.sent == len(data)

    run(scenario)


def test_a_hit_asks_no_origin_and_survives_a_restart(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        data = content(MIB)
        async with caches.open() as cache:
            await fetch(cache, "a", ScriptedOrigin(data))
            await until(lambda: cache.figures().commits == 1)
        silent = ScriptedOrigin(b"")
        async with caches.open() as cache:
            async with await cache.acquire(object_id("a"), silent) as reader:
                assert reader.outcome == "hit"
                assert reader.attributes.etag == '"v1"'
                assert reader.ready(0) == len(data)
                assert await read_all(reader) == data
            assert await cache.peek(object_id("a")) == reader.attributes
            assert await cache.peek(object_id("b")) is None
        assert silent.opens == []

    run(scenario)


def test_an_open_entry_is_acquired_without_a_disk_call(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        async with caches.open() as cache:
            await fetch(cache, "a", ScriptedOrigin(content(MIB)))
            await until(lambda: cache.figures().commits == 1)
            first = cache.acquire_open(object_id("a"))
            assert first is not None
            coroutine = cache.acquire(object_id("a"), ScriptedOrigin(b""))
            with pytest.raises(StopIteration) as ended:
                coroutine.send(None)  # it ends at the first step: nothing was waited for
            ended.value.value.release()
            first.release()

    run(scenario)


def test_a_range_waits_only_for_its_own_bytes(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        data = content(2 * MIB)
        origin = ScriptedOrigin(data, allowed=MIB)
        async with caches.open() as cache:
            async with await cache.acquire(object_id("a"), origin) as reader:
                assert await read_all(reader, MIB - 2048, MIB) == data[MIB - 2048 : MIB]
                waiting = asyncio.create_task(reader.wait(MIB))
                await until(lambda: reader.ready(0) == MIB)
                assert not waiting.done()
                origin.allow(None)
                assert await waiting > MIB

    run(scenario)


def test_readers_that_leave_disturb_no_one_and_the_fill_goes_on(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        data = content(2 * MIB)
        origin = ScriptedOrigin(data, allowed=1000)
        async with caches.open() as cache:
            waiting = [asyncio.create_task(fetch(cache, "a", origin)) for _ in range(5)]
            await until(lambda: cache.figures().joins == 4)
            for task in waiting[:4]:
                task.cancel()
            await asyncio.wait(waiting[:4])
            origin.allow(MIB)
            waiting[4].cancel()
            await asyncio.wait(waiting)
            origin.allow(None)
            await until(lambda: cache.figures().commits == 1)
        assert origin.opens == [(0, None)]

    run(scenario)


def test_an_acquire_that_is_cancelled_while_the_origin_opens_cancels_nothing(
    run: Run, caches: Caches
) -> None:
    async def scenario() -> None:
        data = content(MIB)
        origin = ScriptedOrigin(data, allowed=0)
        async with caches.open() as cache:
            first = asyncio.create_task(cache.acquire(object_id("a"), origin))
            second = asyncio.create_task(fetch(cache, "a", origin))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait({first})
            origin.allow(None)
            assert await second == data
        assert len(origin.opens) == 1

    run(scenario)


def test_a_refusal_reaches_all_who_wait_and_leaves_nothing(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        reason = ValueError("403")
        origin = ScriptedOrigin(content(10), script=[Act(refuse=reason)])
        async with caches.open() as cache:
            waiting = (cache.acquire(object_id("a"), origin) for _ in range(3))
            errors = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(error) for error in errors] == [OriginRefused] * 3
            assert all(e.original is reason for e in errors if isinstance(e, OriginRefused))
            await until(lambda: not caches.names("partial"))
            assert await fetch(cache, "a", origin) == origin.content
        assert caches.names("objects") == [object_id("a")]

    run(scenario)


def test_a_temporary_failure_at_opening_is_tried_again(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(10), script=[Act(fail=OSError("unreachable"))] * 2)
        async with caches.open() as cache:
            assert await fetch(cache, "a", origin) == origin.content
        assert len(origin.opens) == 3

    run(scenario)


def test_a_lasting_failure_at_opening_is_raised_as_it_was(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        failure = ConnectionRefusedError("unreachable")
        origin = ScriptedOrigin(b"", script=[Act(fail=failure)] * 3)
        async with caches.open(open_patience=0.0) as cache:
            with pytest.raises(ConnectionRefusedError) as raised:
                await cache.acquire(object_id("a"), origin)
            assert raised.value is failure
            assert cache.trouble is None

    run(scenario)


def test_an_empty_object_is_kept_and_served(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        async with caches.open() as cache:
            assert await fetch(cache, "a", ScriptedOrigin(b"")) == b""
            await until(lambda: cache.figures().commits == 1)

    run(scenario)


def test_buffers_that_the_origin_reuses_are_copied(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB))
        origin.as_views = True
        async with caches.open() as cache:
            assert await fetch(cache, "a", origin) == origin.content

    run(scenario)


def test_more_bytes_than_declared_are_never_kept(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB), script=[Act(surplus=b"x")])
        async with caches.open() as cache:
            async with await cache.acquire(object_id("a"), origin) as reader:
                with pytest.raises(FillBroken) as broken:
                    await read_all(reader)
                assert not broken.value.resumable
                assert reader.ready(0) < MIB
            await until(lambda: cache.figures().fills == 0)
            assert caches.names("partial") == caches.names("objects") == []

    run(scenario)


def test_ids_that_are_no_file_names_are_refused(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        async with caches.open() as cache:
            for bad in ("", "..", "a/b", ".hidden", "x" * 200):
                with pytest.raises(ValueError, match="object id"):
                    await cache.acquire(bad, ScriptedOrigin(b""))
                with pytest.raises(ValueError, match="object id"):
                    await cache.remember(bad, b"")

    run(scenario)


def test_the_newest_note_is_found_by_another_process_and_is_private(
    run: Run, caches: Caches
) -> None:
    async def scenario() -> None:
        async with caches.open() as cache:
            assert await cache.recall(object_id("a")) is None
            await cache.remember(object_id("a"), b"old")
            await cache.remember(object_id("a"), b"new")
        note = caches.path / "v1/partial" / object_id("a") / "note"
        assert note.stat().st_mode & 0o777 == 0o600
        async with caches.open() as cache:
            assert await cache.recall(object_id("a")) == b"new"
            note.write_bytes(note.read_bytes()[:-1])
            assert await cache.recall(object_id("a")) is None

    run(scenario)


class Meanwhile(Disk):
    """Lets something happen in the moment in which an object's data is found missing."""

    def __init__(self, happen: Callable[[], None]) -> None:
        self.happen: Callable[[], None] | None = happen

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        try:
            return super().open(path, flags, mode)
        except FileNotFoundError:
            if "/objects/" in path and self.happen is not None:
                happen, self.happen = self.happen, None
                happen()
            raise


def test_an_object_that_is_committed_while_it_is_looked_for_stays(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB))
        async with caches.open() as cache:
            await fetch(cache, "a", origin)
            await until(lambda: cache.figures().commits == 1)
        there = caches.path / "v1/objects" / object_id("a")
        away = caches.path / "away"
        os.rename(there, away)
        async with caches.open(disk=Meanwhile(lambda: os.rename(away, there))) as late:
            async with await late.acquire(object_id("a"), origin) as reader:
                assert reader.outcome == "hit"
                assert await read_all(reader) == origin.content
        assert len(origin.opens) == 1

    run(scenario)


class Evicted(Disk):
    """Another process evicts the object between the opening of its data and the lock on it."""

    def __init__(self, evict: Callable[[], None]) -> None:
        self.evict: Callable[[], None] | None = evict

    def flock(self, fd: int, operation: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/data") and self.evict is not None:
            evict, self.evict = self.evict, None
            evict()
        super().flock(fd, operation)


def test_an_object_that_is_evicted_while_it_is_opened_is_fetched_anew(
    run: Run, caches: Caches
) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB))
        async with caches.open() as cache:
            await fetch(cache, "a", origin)
            await until(lambda: cache.figures().commits == 1)
        there = caches.path / "v1/objects" / object_id("a")
        gone = caches.path / "v1/trash/a"
        async with caches.open(disk=Evicted(lambda: os.rename(there, gone))) as late:
            async with await late.acquire(object_id("a"), origin) as reader:
                assert reader.outcome == "miss"
                assert await read_all(reader) == origin.content
            await until(lambda: late.figures().commits == 1)
        assert caches.names("objects") == [object_id("a")]

    run(scenario)


async def stored(caches: Caches, seed: int, away: Path) -> None:
    """Stores a version of the object and puts it aside."""
    origin = ScriptedOrigin(content(MIB, seed), etag=f'"v{seed}"')
    async with caches.open() as cache:
        await fetch(cache, "a", origin)
        await until(lambda: cache.figures().commits == 1)
    os.rename(caches.path / "v1/objects" / object_id("a"), away)


def test_an_object_that_is_replaced_while_it_is_opened_is_not_mixed_with_the_new_one(
    run: Run, caches: Caches
) -> None:
    async def scenario() -> None:
        there = caches.path / "v1/objects" / object_id("a")
        old, new = caches.path / "old", caches.path / "new"
        await stored(caches, 1, old)
        await stored(caches, 2, new)
        os.rename(old, there)

        def replace() -> None:
            os.rename(there, caches.path / "v1/trash/a")
            os.rename(new, there)

        async with caches.open(disk=Evicted(replace)) as late:
            async with await late.acquire(object_id("a"), ScriptedOrigin(b"")) as reader:
                assert reader.attributes.etag == '"v2"'
                assert await read_all(reader) == content(MIB, seed=2)

    run(scenario)


def test_an_object_that_is_replaced_while_it_is_served_reaches_those_who_come_later(
    run: Run, caches: Caches
) -> None:
    """An entry in use is never let go for its age: only a look at the directory tells."""

    async def scenario() -> None:
        there = caches.path / "v1/objects" / object_id("a")
        old, new = caches.path / "old", caches.path / "new"
        await stored(caches, 1, old)
        await stored(caches, 2, new)
        os.rename(old, there)
        async with caches.open(check_every=0.0) as cache:
            early = await cache.acquire(object_id("a"), ScriptedOrigin(b""))
            os.rename(there, caches.path / "v1/trash/a")
            os.rename(new, there)

            def found_out() -> bool:
                late = cache.acquire_open(object_id("a"))
                if late is not None:
                    late.release()
                return late is None

            await until(found_out)
            async with await cache.acquire(object_id("a"), ScriptedOrigin(b"")) as late:
                assert late.attributes.etag == '"v2"'
                assert await read_all(late) == content(MIB, seed=2)
            assert await read_all(early) == content(MIB, seed=1)
            early.release()

    run(scenario)


@pytest.mark.parametrize("what", ["without data", "without meta", "empty", "junk", "file", "link"])
def test_what_only_has_the_name_of_an_object_makes_place_for_it(
    run: Run, caches: Caches, what: str
) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB))
        async with caches.open() as cache:
            await fetch(cache, "a", origin)
            await until(lambda: cache.figures().commits == 1)
        there = caches.path / "v1/objects" / object_id("a")
        elsewhere = caches.path.parent / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "precious").write_text("not ours")
        match what:
            case "without data":
                (there / "data").unlink()
            case "without meta":
                (there / "meta").unlink()
            case "empty" | "junk" | "file" | "link":
                shutil.rmtree(there)
                if what == "file":
                    there.write_text("junk")
                elif what == "link":
                    there.symlink_to(elsewhere)
                else:
                    there.mkdir()
                if what == "junk":
                    (there / "junk").write_text("junk")
        async with caches.open() as cache:
            assert await fetch(cache, "a", origin) == origin.content
            await until(lambda: cache.figures().commits == 1)
            assert caches.names("partial") == caches.names("trash") == []
        assert sorted(os.listdir(there)) == ["data", "meta"]
        assert not there.is_symlink()
        assert (elsewhere / "precious").read_text() == "not ours"

    run(scenario)


def test_removing_what_a_reader_has_leaves_what_came_in_its_place(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB))
        async with caches.open(check_every=0.0) as cache:
            await fetch(cache, "a", origin)
            await until(lambda: cache.figures().commits == 1)
            old = await cache.acquire(object_id("a"), origin)
            assert await cache.remove(object_id("a"), old)
            assert await fetch(cache, "a", origin) == origin.content
            await until(lambda: cache.figures().commits == 2)
            assert not await cache.remove(object_id("a"), old)
            assert caches.names("objects") == [object_id("a")]
            assert await read_all(old) == origin.content
            old.release()

    run(scenario)
