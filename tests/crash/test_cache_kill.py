"""kill -9 at every disk call and at random instants: nothing is lost but time."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cache_crash import CHUNK, SIZE, Lives, lives

IN_FLIGHT = 2 * 1024 * 1024
"""What a fill may have received and not written yet."""


@pytest.fixture(scope="module")
def processes() -> Iterator[Lives]:
    with lives() as running:
        yield running


def calls_of_a_life(processes: Lives, folder: Path) -> int:
    """How many disk calls a life makes that is not killed, found by halving."""
    alive, dead = 1, 2000
    while dead - alive > 8:
        middle = (alive + dead) // 2
        outcome = processes.case(folder / f"probe{middle}", [{"call": middle}])
        if outcome["killed"]:
            alive = middle
        else:
            dead = middle
    return dead


def sweep(processes: Lives, folder: Path, step: int) -> None:
    calls = calls_of_a_life(processes, folder)
    found = 0
    for number in range(0, calls, step):
        outcome = processes.case(folder / str(number), [{"call": number}])
        assert outcome["sent"] <= SIZE + IN_FLIGHT + CHUNK
        found += outcome["found"]
    assert found > 0, "no life got as far as its commit"


def test_a_kill_before_any_disk_call_loses_only_time(processes: Lives, tmp_path: Path) -> None:
    sweep(processes, tmp_path, step=4)


@pytest.mark.full
def test_a_kill_before_each_disk_call_loses_only_time(processes: Lives, tmp_path: Path) -> None:
    sweep(processes, tmp_path, step=1)


def random_instants(processes: Lives, folder: Path, count: int) -> None:
    luck = random.Random(count)
    unfinished = 0
    for number in range(count):
        deaths = [{"seconds": luck.uniform(0, 0.15)} for _ in range(luck.randint(1, 3))]
        outcome = processes.case(folder / str(number), deaths)
        assert outcome["sent"] <= SIZE + outcome["killed"] * (IN_FLIGHT + CHUNK)
        unfinished += not outcome["found"]
    assert unfinished > count // 10, "the deaths came too late"


def test_kills_at_random_instants_lose_only_time(processes: Lives, tmp_path: Path) -> None:
    random_instants(processes, tmp_path, 40)


@pytest.mark.full
def test_kills_at_200_random_instants_lose_only_time(processes: Lives, tmp_path: Path) -> None:
    random_instants(processes, tmp_path, 200)
