"""A partial object of an earlier life: what can be verified is kept, the rest is fetched."""

import errno
import os
from pathlib import Path

import pytest

from mender_gateway.cache import Attributes, FillBroken, OriginRefused, VerificationFailed
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
CHUNK = 256 * 1024
DOWN = Act(fail=OSError("unreachable"))


async def stop_at(caches: Caches, origin: ScriptedOrigin, position: int) -> Path:
    """Lets a fill get to `position`, ends the cache; the partial directory."""
    origin.allow(position)
    async with caches.open() as cache:
        async with await cache.acquire(object_id("a"), origin) as reader:
            while reader.ready(0) < position:
                await reader.wait(reader.ready(0))
    origin.allow(None)
    origin.opens.clear()
    return caches.path / "v1/partial" / object_id("a")


def test_verified_chunks_are_kept_and_the_rest_is_fetched(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(2 * MIB))
        await stop_at(caches, origin, MIB + 1000)
        async with caches.open() as cache:
            async with await cache.acquire(object_id("a"), origin) as reader:
                assert reader.outcome == "miss"
                assert await read_all(reader) == origin.content
            await until(lambda: cache.figures().commits == 1)
            assert cache.figures().origin_bytes == MIB
        assert origin.opens == [(MIB, '"v1"')]

    run(scenario)


@pytest.mark.parametrize("torn", [0, CHUNK, 3 * CHUNK - 1])
def test_a_torn_chunk_and_all_behind_it_are_fetched_again(
    run: Run, caches: Caches, torn: int
) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(2 * MIB))
        folder = await stop_at(caches, origin, MIB)
        (data,) = folder.glob("data.*")
        fd = os.open(data, os.O_RDWR)
        os.pwrite(fd, bytes([origin.content[torn] ^ 1]), torn)
        os.close(fd)
        async with caches.open() as cache:
            assert await fetch(cache, "a", origin) == origin.content
            await until(lambda: cache.figures().commits == 1)
        assert origin.opens[-1][0] == torn // CHUNK * CHUNK

    run(scenario)


def test_a_filler_whose_directory_was_replaced_commits_nothing(run: Run, caches: Caches) -> None:
    """What has its name now is another filler's, and not complete."""

    async def scenario() -> None:
        data = content(MIB)
        old, new = (ScriptedOrigin(data, allowed=MIB // 2) for _ in range(2))
        partial = caches.path / "v1/partial" / object_id("a")
        async with caches.open() as cache, caches.open() as other:
            first = await cache.acquire(object_id("a"), old)
            await first.wait(MIB // 2 - 1)
            os.rename(partial, caches.path / "away")
            second = await other.acquire(object_id("a"), new)
            assert second.outcome == "miss"
            await second.wait(MIB // 2 - 1)
            old.allow(None)
            assert await read_all(first) == data
            await until(lambda: cache.figures().fills == 0)
            assert caches.kinds().count("lost") == 1
            assert caches.names("objects") == []
            new.allow(None)
            assert await read_all(second) == data
            await until(lambda: other.figures().commits == 1)
            first.release()
            second.release()
        assert caches.names("objects") == [object_id("a")]

    run(scenario)


def test_the_temporary_file_of_a_writer_that_died_is_cleared(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB))
        folder = await stop_at(caches, origin, MIB // 2)
        (folder / "note.0123456789abcdef").write_text("half a li")
        origin.allow(MIB // 2)
        async with caches.open() as cache:
            async with await cache.acquire(object_id("a"), origin) as reader:
                await reader.wait(0)
                assert [name for name in os.listdir(folder) if name.startswith("note.")] == []
                origin.allow(None)
                assert await read_all(reader) == origin.content

    run(scenario)


@pytest.mark.parametrize("damage", ["meta", "mark", "prefix", "data", "short"])
def test_any_damaged_file_of_a_partial_costs_only_time(
    run: Run, caches: Caches, damage: str
) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB))
        folder = await stop_at(caches, origin, MIB // 2)
        for path in folder.iterdir():
            if damage == "short" and path.name.startswith("data."):
                os.truncate(path, 1000)
            elif path.name.startswith(damage):
                path.write_bytes(b"junk")
        async with caches.open() as cache:
            assert await fetch(cache, "a", origin) == origin.content
            await until(lambda: cache.figures().commits == 1)

    run(scenario)


@pytest.mark.parametrize("missing", ["meta", "mark", "prefix", "data", "fill.lock"])
def test_any_missing_file_of_a_partial_costs_only_time(
    run: Run, caches: Caches, missing: str
) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB))
        folder = await stop_at(caches, origin, MIB // 2)
        for path in folder.iterdir():
            if path.name.startswith(missing):
                path.unlink()
        async with caches.open() as cache:
            assert await fetch(cache, "a", origin) == origin.content
            await until(lambda: cache.figures().commits == 1)
        assert caches.names("partial") == []

    run(scenario)


def test_a_complete_partial_is_committed_without_the_origin(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB + 5))
        refusing = FaultyDisk()
        refusing.fail("rename", errno.EIO, when=lambda path: path.endswith("/object"))
        async with caches.open(disk=refusing) as cache:
            assert await fetch(cache, "a", origin) == origin.content
            await until(lambda: cache.trouble is not None)
        assert caches.names("objects") == []
        silent = ScriptedOrigin(b"")
        async with caches.open() as cache:
            assert await fetch(cache, "a", silent) == origin.content
            await until(lambda: cache.figures().commits == 1)
        assert silent.opens == []

    run(scenario)


def test_kept_bytes_are_served_while_the_origin_is_away(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(2 * MIB))
        await stop_at(caches, origin, MIB)
        origin.script.extend([DOWN] * 3)
        async with caches.open() as cache:
            async with await cache.acquire(object_id("a"), origin) as reader:
                assert await read_all(reader) == origin.content

    run(scenario)


def test_a_refusal_is_told_before_heads_are_out_and_the_bytes_stay(
    run: Run, caches: Caches
) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(2 * MIB))
        await stop_at(caches, origin, MIB)
        origin.script.append(Act(refuse=ValueError("403")))
        async with caches.open() as cache:
            with pytest.raises(OriginRefused):
                await cache.acquire(object_id("a"), origin)
            assert await fetch(cache, "a", origin) == origin.content
        assert [offset for offset, _ in origin.opens] == [MIB, MIB]

    run(scenario)


def test_kept_bytes_of_an_older_object_are_thrown_away(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        await stop_at(caches, ScriptedOrigin(content(2 * MIB)), MIB)
        new = ScriptedOrigin(content(2 * MIB, seed=2), etag='"v2"')
        async with caches.open() as cache:
            async with await cache.acquire(object_id("a"), new) as reader:
                assert reader.attributes.etag == '"v2"'
                assert await read_all(reader) == new.content
            await until(lambda: cache.figures().commits == 1)
        assert new.opens == [(MIB, '"v1"')]
        assert caches.names("partial") == []

    run(scenario)


class Recorder:
    """A verifier that records, and objects to what it is told to object to."""

    def __init__(self, forbidden_at: int | None = None, verdict: Exception | None = None) -> None:
        self.seen = bytearray()
        self.forbidden_at = forbidden_at
        self.verdict = verdict

    def __call__(self, attributes: Attributes, /) -> "Recorder":
        self.seen.clear()
        return self

    def feed(self, data: bytes | memoryview, /) -> None:
        self.seen += data
        if self.forbidden_at is not None and len(self.seen) > self.forbidden_at:
            raise VerificationFailed("forbidden")

    def finish(self) -> str | None:
        if self.verdict is not None:
            raise self.verdict
        return "all is well"


def test_the_verifier_sees_every_byte_once_and_its_word_is_kept(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB + 5), script=[Act(break_at=5000)])
        await stop_at(caches, origin, MIB // 2)
        verifier = Recorder()
        async with caches.open() as cache:
            async with await cache.acquire(object_id("a"), origin, verifier) as reader:
                await read_all(reader)
            await until(lambda: cache.figures().commits == 1)
        assert bytes(verifier.seen) == origin.content
        meta = (caches.path / "v1/objects" / object_id("a") / "meta").read_text()
        assert "all is well" in meta

    run(scenario)


@pytest.mark.parametrize(
    "verifier",
    [
        Recorder(forbidden_at=MIB // 2),
        Recorder(verdict=VerificationFailed("signature")),
        Recorder(verdict=ZeroDivisionError("a bug")),
    ],
    ids=["midway", "at the end", "by a bug"],
)
def test_what_fails_verification_is_neither_kept_nor_served_to_its_end(
    run: Run, caches: Caches, verifier: Recorder
) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB))
        async with caches.open() as cache:
            async with await cache.acquire(object_id("a"), origin, verifier) as reader:
                with pytest.raises(FillBroken) as broken:
                    await read_all(reader)
                assert not broken.value.resumable
                assert reader.ready(0) < MIB
            await until(lambda: cache.figures().fills == 0)
            assert cache.figures().rejections == 1
            assert caches.names("partial") == caches.names("objects") == []

    run(scenario)


def test_kept_bytes_that_fail_verification_are_thrown_away(run: Run, caches: Caches) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(content(MIB))
        await stop_at(caches, origin, MIB // 2)
        async with caches.open() as cache:
            verifier = Recorder(forbidden_at=1000)
            async with await cache.acquire(object_id("a"), origin, verifier) as reader:
                with pytest.raises(FillBroken):
                    await read_all(reader)
            await until(lambda: cache.figures().fills == 0)
        assert caches.names("partial") == []

    run(scenario)
