"""The uplink's rate: kept on the whole, shared alike, without bursts."""

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mender_gateway.artifacts.rate import RateLimit
from mender_gateway.demo.blobs import GeneratedBlob
from tests.artifacts.site import running_site


class Clock:
    """Time that passes only while everybody sleeps; sleepers wake in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps = 0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        woken = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, woken))
        await woken

    async def run(self, *work: Coroutine[Any, Any, None], until: float) -> None:
        tasks = [asyncio.ensure_future(each) for each in work]
        try:
            while True:
                for _ in range(3):
                    await asyncio.sleep(0)
                if not self._sleepers:
                    return
                self._sleepers.sort(key=lambda sleeper: sleeper[0])
                due, woken = self._sleepers.pop(0)
                if due > until:
                    return
                self.now = due
                woken.set_result(None)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def simulate(rate: int, downloads: int, seconds: float) -> tuple[Counter[int], Clock, RateLimit]:
    """Downloads that take all they are given; bytes by download.

    They end by themselves at twice the rate: without a limit nobody would ever sleep.
    """
    clock = Clock()
    limit = RateLimit(rate, clock.time, clock.sleep)
    got: Counter[int] = Counter()

    async def download(number: int) -> None:
        while got[number] < 2 * rate * (seconds + 1):
            got[number] += limit.piece
            await limit.spend(limit.piece)

    asyncio.run(clock.run(*(download(n) for n in range(downloads)), until=seconds))
    return got, clock, limit


@settings(max_examples=50, deadline=None)
@given(st.integers(1024, 10**8), st.integers(1, 12))
def test_downloads_share_the_rate_alike_and_keep_to_it(rate: int, downloads: int) -> None:
    seconds = 60.0
    got, clock, limit = simulate(rate, downloads, seconds)
    total = sum(got.values())
    saved = rate * 0.1
    assert total <= rate * seconds + saved + downloads * limit.piece + limit.piece
    assert total >= rate * (seconds - 2 * downloads * limit.piece / rate)
    # who is first may have what was saved up before
    assert max(got.values()) - min(got.values()) <= saved + 2 * limit.piece
    assert clock.sleeps <= total / limit.piece


def test_idle_time_is_not_saved_up() -> None:
    clock = Clock()
    limit = RateLimit(100_000, clock.time, clock.sleep)
    clock.now = 3600.0
    asyncio.run(clock.run(limit.spend(200_000), until=1e9))
    assert clock.now == pytest.approx(3600.0 + 2.0 - 0.1)


def test_pieces_are_small_at_low_rates_and_bounded_at_high_ones() -> None:
    assert RateLimit(1024, Clock().time).piece == 512
    assert RateLimit(10**9, Clock().time).piece == 256 * 1024


@pytest.mark.parametrize("cache", [True, False], ids=["cached", "uncached"])
def test_the_gateway_keeps_to_the_configured_rate_over_all_downloads(
    tmp_path: Path, cache: bool
) -> None:
    size, rate = 1_000_000, 1_600_000
    cached = {"UplinkRateLimit": "12800kbit"}
    with running_site(tmp_path, cache=cache, cached=cached) as site:
        paths = []
        for number in range(4):
            site.storage.put(str(number), GeneratedBlob(size, number))
            paths.append(site.link(site.storage.link(str(number))))
        ends = []

        def fetch(path: str) -> None:
            assert len(site.get(path)[2]) == size
            ends.append(time.monotonic())

        begun = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(fetch, paths))
        took = max(ends) - begun
        assert took >= 4 * size / rate * 0.9
        assert took <= 4 * size / rate * 2 + 3  # the machine may be busy with other things
        # side by side: one after the other, the first would end after a quarter of the time
        assert min(ends) - begun > 0.5 * took
