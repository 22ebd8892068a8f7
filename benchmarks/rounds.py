"""Interleaved rounds: every server once, then every server again, each time in another order.

A round drives one server for a few seconds and divides the work it did by the CPU time that its
processes used meanwhile. The others stand idle.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.figures import Series
from benchmarks.processes import Server

type_of_sample = TypeVar("type_of_sample")
type_of_load = Callable[[float], float]
"""Drives a server for so many seconds and returns the work it has done."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: the rounds of each figure, and the seconds of each round."""

    rounds: int = 5
    seconds: int = 2
    warm_up: int = 1
    quick: bool = False
    """One worker a peer, the smallest set of figures."""
    long: bool = False
    """Adds the large cold cases."""


QUICK = Scale(rounds=3, seconds=1, warm_up=0, quick=True)


@dataclass(frozen=True, slots=True)
class Contender:
    """A server with the load that drives it; `name` is what tables call it."""

    name: str
    server: Server
    load: type_of_load


class NoWork(Exception):
    """A round in which a server did nothing: its figure would mean nothing."""


def drive(contender: Contender, seconds: float) -> float:
    """The load alone; whatever goes wrong says who was driven."""
    try:
        return contender.load(seconds)
    except Exception as error:
        error.add_note(
            f"while driving {contender.name}, whose log ends:\n{contender.server.ending()}"
        )
        raise


def one_round(contender: Contender, seconds: float) -> float:
    """Work per CPU-second of one round."""
    before = contender.server.cpu()
    work = drive(contender, seconds)
    used = contender.server.cpu() - before
    if work <= 0 or used <= 0:
        raise NoWork(f"{contender.name} did {work} in {used} CPU-seconds")
    return work / used


def _warm_up(contenders: Sequence[Contender], seconds: float) -> None:
    """All at once: nothing is measured."""
    with ThreadPoolExecutor(len(contenders)) as threads:
        for done in [threads.submit(drive, each, seconds) for each in contenders]:
            done.result()


def in_turns(
    count: int, rounds: int, measure: Callable[[int], type_of_sample]
) -> list[list[type_of_sample]]:
    """What `measure` says of each of `count` servers in each round, by server."""
    values: list[list[type_of_sample]] = [[] for _ in range(count)]
    for number in range(rounds):
        for step in range(count):
            index = (number + step) % count
            values[index].append(measure(index))
    return values


def interleaved(contenders: Sequence[Contender], scale: Scale) -> list[Series]:
    """A series for each contender, in their order."""
    if scale.warm_up:
        _warm_up(contenders, scale.warm_up)

    def measure(index: int) -> float:
        return one_round(contenders[index], scale.seconds)

    values = in_turns(len(contenders), scale.rounds, measure)
    return [
        Series(contender.name, tuple(found))
        for contender, found in zip(contenders, values, strict=True)
    ]
