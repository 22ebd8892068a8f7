"""Several processes on one directory: one download between them, whoever dies."""

import asyncio
import contextlib
import hashlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cache_origin import Act, ScriptedOrigin, content, object_id, until
from tests.support.cache_process import Process, process, serve
from tests.support.cache_runs import Run

MIB = 1024 * 1024
CHUNK = 65536
DATA = content(2 * MIB + 9)
WHOLE = hashlib.sha256(DATA).hexdigest()


@contextlib.asynccontextmanager
async def processes(
    folder: Path, origins: dict[str, ScriptedOrigin], count: int = 2, **settings: Any
) -> AsyncIterator[list[Process]]:
    socket = folder / "origin"
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(serve(socket, origins))
        started = (
            stack.enter_async_context(process(folder / "cache", socket, **settings))
            for _ in range(count)
        )
        yield list(await asyncio.gather(*started))


def objects(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache/v1/objects").iterdir())


def partials(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache/v1/partial").iterdir())


async def until_open(one: Process, count: int) -> None:
    """Waits until a process holds so many objects open."""
    async with asyncio.timeout(10):
        while (await one.call("figures"))["open_entries"] != count:
            pass
        await one.call("settle")


def test_processes_download_an_object_once_between_them(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(DATA, allowed=MIB)
        async with processes(tmp_path, {"a": origin}, count=3) as (first, second, third):
            assert await first.call("acquire", name="a") == "miss"
            assert await second.call("acquire", name="a") == "joined"
            assert await second.call("wait", name="a", offset=MIB - 1) == MIB
            reading = [p.call("read", name="a") for p in (first, second)]
            origin.allow(None)
            assert await asyncio.gather(*reading) == [WHOLE, WHOLE]
            await until(lambda: objects(tmp_path) == [object_id("a")])
            assert await third.call("acquire", name="a") == "hit"
            assert await third.call("read", name="a") == WHOLE
        assert len(origin.opens) == 1
        assert origin.sent == len(DATA)
        assert partials(tmp_path) == []

    run(scenario)


def test_all_processes_may_ask_at_the_same_instant(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        names = [str(n) for n in range(8)]
        origins = {name: ScriptedOrigin(DATA) for name in names}
        async with processes(tmp_path, origins, count=3) as all_of_them:

            async def ask(one: Process, name: str) -> Any:
                await one.call("acquire", name=name)
                return await one.call("read", name=name)

            asking = [ask(one, name) for name in names for one in all_of_them]
            assert set(await asyncio.gather(*asking)) == {WHOLE}
        for origin in origins.values():
            assert origin.sent == len(DATA)

    run(scenario)


def test_a_killed_filler_is_replaced_within_two_seconds(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(DATA, allowed=MIB + 1000)
        async with processes(tmp_path, {"a": origin}, count=3) as (filler, second, third):
            assert await filler.call("acquire", name="a") == "miss"
            for follower in (second, third):
                assert await follower.call("acquire", name="a") == "joined"
                assert await follower.call("wait", name="a", offset=MIB) == MIB + 1000
            reading = [p.call("read", name="a") for p in (second, third)]
            killed = time.monotonic()
            await filler.kill()
            await until(lambda: len(origin.opens) == 2)
            assert time.monotonic() - killed < 2
            origin.allow(None)
            assert await asyncio.gather(*reading) == [WHOLE, WHOLE]
            await until(lambda: objects(tmp_path) == [object_id("a")])
        assert len(origin.opens) == 2
        assert origin.opens[1][0] >= MIB - CHUNK
        assert origin.sent <= len(DATA) + 2 * CHUNK

    run(scenario)


def test_fillers_that_die_one_after_the_other_cost_only_the_tail(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(DATA, allowed=0)
        async with processes(tmp_path, {"a": origin}, count=4) as crowd:
            first = await asyncio.gather(*(one.call("acquire", name="a") for one in crowd))
            assert sorted(first) == ["joined", "joined", "joined", "miss"]
            last = None
            for step in range(1, 4):
                origin.allow(step * 500_000)
                waits = [p.call("wait", name="a", offset=step * 500_000 - 1) for p in crowd]
                await asyncio.gather(*waits)
                for one in crowd:
                    if (await one.call("figures"))["fills"] or len(crowd) == 1:
                        last = one
                assert last is not None
                crowd.remove(last)
                await last.kill()
            origin.allow(None)
            assert await crowd[0].call("read", name="a") == WHOLE
        assert origin.sent <= len(DATA) + 3 * 2 * CHUNK

    run(scenario)


def test_a_filler_that_shows_no_life_is_gone_around(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(DATA, allowed=MIB)
        settings: dict[str, Any] = {"stopped_elsewhere": 0.5, "beat": 0.1}
        async with processes(tmp_path, {"a": origin}, **settings) as (filler, follower):
            assert await filler.call("acquire", name="a") == "miss"
            assert await follower.call("acquire", name="a") == "joined"
            reading = follower.call("read", name="a")
            await follower.call("wait", name="a", offset=MIB - 1)
            filler.signal(signal.SIGSTOP)
            assert await reading == "resumable"
            assert await follower.call("acquire", name="a", as_="again") == "bypass: busy"
            filler.signal(signal.SIGCONT)
            origin.allow(None)
            assert await filler.call("read", name="a") == WHOLE
            await until(lambda: objects(tmp_path) == [object_id("a")])

    run(scenario)


def test_a_filler_that_waits_for_its_origin_is_followed_on(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        down = Act(fail=OSError("unreachable"))
        origin = ScriptedOrigin(DATA, script=[Act(break_at=MIB), *[down] * 7])
        settings: dict[str, Any] = {"stopped_elsewhere": 1.0, "beat": 0.1}
        async with processes(tmp_path, {"a": origin}, **settings) as (filler, follower):
            assert await filler.call("acquire", name="a") == "miss"
            assert await follower.call("acquire", name="a") == "joined"
            await until(lambda: len(origin.opens) > 4)
            origin.script.clear()
            assert await follower.call("read", name="a") == WHOLE

    run(scenario)


def test_a_process_waits_for_another_that_has_not_heard_of_the_origin(
    run: Run, tmp_path: Path
) -> None:
    async def scenario() -> None:
        held = asyncio.Event()
        origin = ScriptedOrigin(DATA, script=[Act(hold=held)], allowed=MIB)
        async with processes(tmp_path, {"a": origin}) as (filler, follower):
            first = filler.call("acquire", name="a")
            await until(lambda: len(origin.opens) == 1)
            second = follower.call("acquire", name="a")
            assert await follower.call("hello") == "hello"
            held.set()
            assert (await first, await second) == ("miss", "joined")
            origin.allow(None)
            assert await follower.call("read", name="a") == WHOLE

    run(scenario)


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_a_refusal_in_one_process_lets_the_next_one_ask(
    run: Run, tmp_path: Path, seconds: float
) -> None:
    async def scenario() -> None:
        held = asyncio.Event()
        refusal = Act(hold=held, refuse=ValueError("403"))
        origin = ScriptedOrigin(DATA, script=[refusal])
        async with processes(tmp_path, {"a": origin}) as (filler, other):
            first = filler.call("acquire", name="a")
            await until(lambda: len(origin.opens) == 1)
            second = other.call("acquire", name="a")
            assert await other.call("hello") == "hello"
            held.set()
            assert (await first, await second) == ("refused", "miss")
            assert await other.call("read", name="a") == WHOLE

    run(scenario)


@pytest.mark.parametrize("end", ["rejected", "gave up", "changed"])
def test_readers_elsewhere_hear_how_a_fill_ended(run: Run, tmp_path: Path, end: str) -> None:
    async def scenario() -> None:
        origin = ScriptedOrigin(DATA, allowed=MIB, script=[Act(break_at=MIB + 1)])
        settings: dict[str, Any] = {"give_up": 0.5} if end == "gave up" else {}
        async with processes(tmp_path, {"a": origin}, **settings) as (filler, follower):
            assert await filler.call("acquire", name="a", refusing=end == "rejected") == "miss"
            assert await follower.call("acquire", name="a") == "joined"
            reading = [p.call("read", name="a") for p in (filler, follower)]
            await follower.call("wait", name="a", offset=MIB - 1)
            if end == "gave up":
                origin.script.extend([Act(fail=OSError("unreachable"))] * 100)
            if end == "changed":
                new = ScriptedOrigin(content(MIB + 5, seed=2), etag='"v2"')
                origin.content, origin.attributes = new.content, new.attributes
            origin.allow(None)
            expected = "changed" if end == "changed" else "aborted"
            assert (await reading[0], await reading[1]) == (expected, "aborted")
            origin.script.clear()
            assert await follower.call("acquire", name="a", as_="b") in ("miss", "joined")
            whole = hashlib.sha256(origin.content).hexdigest()
            assert await follower.call("read", name="b") == whole

    run(scenario)


def test_what_another_process_serves_is_not_evicted(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        origins = {name: ScriptedOrigin(content(MIB, seed=n)) for n, name in enumerate("abc")}
        settings: dict[str, Any] = {"max_size": 2 * MIB + 300_000, "linger": 0.0}
        async with processes(tmp_path, origins, **settings) as (one, other):
            for name in "ab":
                await one.call("acquire", name=name)
                await one.call("read", name=name)
                await until(lambda name=name: object_id(name) in objects(tmp_path))  # type: ignore[misc]
            await one.call("release", name="b")
            await until_open(one, 1)
            assert await other.call("acquire", name="c") == "miss"
            await other.call("read", name="c")
            await until(lambda: object_id("c") in objects(tmp_path))
            assert sorted(objects(tmp_path)) == sorted([object_id("a"), object_id("c")])
            again = hashlib.sha256(origins["a"].content).hexdigest()
            assert await one.call("read", name="a") == again

    run(scenario)


def test_what_a_follower_serves_is_not_evicted(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        origins = {"a": ScriptedOrigin(DATA, allowed=MIB), "b": ScriptedOrigin(DATA)}
        settings: dict[str, Any] = {"max_size": 3 * MIB, "linger": 0.0, "no_room_pause": 0.0}
        async with processes(tmp_path, origins, **settings) as (filler, follower):
            assert await filler.call("acquire", name="a") == "miss"
            assert await follower.call("acquire", name="a") == "joined"
            await follower.call("wait", name="a", offset=MIB - 1)
            origins["a"].allow(None)
            assert await filler.call("read", name="a") == WHOLE
            await until(lambda: objects(tmp_path) == [object_id("a")])
            await filler.call("release", name="a")
            await until_open(filler, 0)
            assert await filler.call("acquire", name="b") == "bypass: room"
            assert await follower.call("read", name="a") == WHOLE
            await follower.call("release", name="a")
            await until_open(follower, 0)
            assert await filler.call("acquire", name="b") == "miss"
            assert await filler.call("read", name="b") == WHOLE

    run(scenario)


def test_processes_never_promise_the_same_room(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        names = [str(n) for n in range(12)]
        origins = {name: ScriptedOrigin(content(MIB), allowed=0) for name in names}
        settings: dict[str, Any] = {"max_size": 4 * MIB + 100_000}
        async with processes(tmp_path, origins, count=3, **settings) as crowd:
            asking = [
                crowd[number % 3].call("acquire", name=name) for number, name in enumerate(names)
            ]
            answers = await asyncio.gather(*asking)
            assert answers.count("miss") == 4
            assert answers.count("bypass: room") == 8
            for origin in origins.values():
                origin.allow(None)

    run(scenario)
