"""`python -m tests.soak --seconds 600`: devices against faults, and a verdict.

Exit status 0 means: every kind of fault came and had its effect, no wrong byte, no device that
waited for ever, nothing left behind, flat memory, and an uplink that carried little more than what
had to be fetched.
"""

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.soak.account import Account
from tests.soak.devices import Device, Tally
from tests.soak.faults import OF_THE_HOUSE, OF_THE_LINE, Faults
from tests.soak.place import Gateway, Place, place

_CALM = 0.15
"""Share of the run, at its end, in which only the line fails."""
_MOST_UPLINK = 1.05
_MOST_ASTRAY = 0.02
"""Share of the uplink for artifacts that found no room, or found the cache busy."""
_LONGEST_WAIT = 75.0
"""Seconds; the longest deadline inside, for a disk or a process that shows no life, is 60."""
_GROWTH = 16 << 20
"""Bytes by which the memory of the second half may exceed that of the second quarter."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    number, seconds = options.devices, options.seconds
    print(f"soak: {number} devices, {seconds} s, seed {options.seed}, {folder}")
    luck = random.Random(options.seed)
    with place(folder, luck) as made:
        faults = asyncio.run(soak(made, luck, seconds, number))
    if faults or options.keep:
        print(f"soak: logs are in {folder}")
    else:
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    for fault in faults:
        print(f"soak: FAILED: {fault}")
    print(f"soak: {'FAILED' if faults else 'passed'}")
    return 1 if faults else 0


async def soak(made: Place, luck: random.Random, seconds: int, number: int) -> list[str]:
    tally, account = Tally(), Account(made)
    stop = asyncio.Event()
    watched = made.gateways[1]
    await Device(made, luck, Tally(), stop).download("artifact-00")
    before = await quiet(watched, lambda: None)
    memory: list[int] = []
    faults = Faults(made, luck, account)
    async with asyncio.TaskGroup() as tasks:
        for each in range(number):
            device = Device(made, random.Random(luck.random() + each), tally, stop)
            tasks.create_task(device.run())
        failing = tasks.create_task(faults.run(seconds, max(7, int(seconds * _CALM))))
        begun = said = time.monotonic()
        while not failing.done():
            await asyncio.sleep(1.0)
            memory.append(watched.process.resident())
            await asyncio.to_thread(account.look)
            if time.monotonic() - said > 15:
                said = time.monotonic()
                passed = said - begun
                print(f"soak: {passed:4.0f} s, {say(tally)}, {memory[-1] >> 20} MiB", flush=True)
        stop.set()
    counts = dict(sorted(faults.counts.items()))
    print(f"soak: {say(tally)}; refusals {tally.refused}; faults {counts}")
    print(f"soak: events {dict(sorted(account.kinds().items()))}")
    found = [*tally.wrong[:20]]
    if tally.completed < number:
        found.append(f"only {tally.completed} downloads were completed")
    print(f"soak: the longest that a device waited for a byte: {tally.longest:.1f} s")
    if tally.longest > _LONGEST_WAIT:
        found.append(f"a device waited {tally.longest:.0f} s for a byte")
    found += missed(made, faults, account)
    made.cloud.storage.server.script.clear()
    found += await judge(made, account, before, memory)
    return found


def missed(made: Place, faults: Faults, account: Account) -> list[str]:
    """Faults that did not come, or had no effect."""
    expected = {**OF_THE_LINE, **OF_THE_HOUSE}
    found = [f"there was no {kind}" for kind in expected if not faults.counts.get(kind)]
    effects = ["fill broke", "changed", "taken over", "evicted", "committed"]
    effects += ["trouble", "healed"] if made.mounted else []
    kinds = account.kinds()
    return found + [f"nothing was logged as: {kind}" for kind in effects if not kinds[kind]]


def say(tally: Tally) -> str:
    done = f"{tally.completed} downloads, {tally.resumed} resumed, {tally.bytes >> 20} MiB"
    return f"{done}, {len(tally.wrong)} wrong"


async def judge(made: Place, account: Account, before: int, memory: list[int]) -> list[str]:
    found = []
    watched = made.gateways[1]
    fills = await until(lambda: sum(fills_of(g) for g in made.gateways), 0, 180)
    if fills:
        found.append(f"{fills} fills do not end")
    after = await quiet(watched, lambda: before)
    print(f"soak: descriptors {before} before, {after} after")
    if after > before:
        found.append(f"descriptors: {before} before, {after} after")
    bill = account.settle()
    print(
        f"soak: uplink {bill.used / 1e6:.1f} MB, of these past the cache {bill.uncached / 1e6:.1f} "
        f"MB; needed {bill.needed / 1e6:.1f} MB, repeated with reason {bill.repeated / 1e6:.1f} MB "
        f"({bill.repeats:.1%}): ratio {bill.ratio:.3f}"
    )
    print(f"soak: {', '.join(f'{why} {size >> 20} MiB' for why, size in account.items.items())}")
    if bill.ratio > _MOST_UPLINK:
        found.append(f"the uplink carried {bill.ratio:.3f} times what had to be fetched")
    astray = account.without_reason()
    print(f"soak: past the cache without trouble of the disk: {astray / 1e6:.1f} MB")
    if astray > _MOST_ASTRAY * bill.used:
        found.append(f"{astray} bytes went past the cache without trouble of the disk")
    found += account.faults
    found += grown(memory)
    for gateway in made.gateways:
        log = gateway.process.log
        found += [
            f"{gateway.folder.name}: {word}"
            for word in ("internal error", "unexpected")
            if word in log
        ]
        if gateway.process.stop() != 0:
            found.append(f"{gateway.folder.name} did not end well")
    made.gateways[1].start()  # clears what killed processes have left
    made.gateways[1].process.stop()
    found += account.left_behind()
    command = [sys.executable, "-m", "mender_gateway", "cache", "verify", "--keep", "--path"]
    verified = subprocess.run([*command, str(made.cache)], capture_output=True, text=True)
    print(f"soak: {verified.stdout.strip()}")
    if verified.returncode:
        found.append(f"cache verify: {verified.stdout}{verified.stderr}")
    return found


def grown(memory: list[int]) -> list[str]:
    quarter = len(memory) // 4
    if quarter < 5:
        return []
    early = statistics.median(memory[quarter : 2 * quarter])
    late = statistics.median(memory[2 * quarter :])
    print(f"soak: memory {early / 2**20:.1f} MiB early, {late / 2**20:.1f} MiB late")
    if late > early + _GROWTH:
        return [f"memory grew from {early / 2**20:.1f} to {late / 2**20:.1f} MiB"]
    return []


def fills_of(gateway: Gateway) -> int:
    return int(gateway.metrics()["mender_gateway_cache_fills"])


async def until(look: Callable[[], int], wanted: int, seconds: float) -> int:
    """Looks until it is no more than wanted, or the time is over; the last value."""
    deadline = time.monotonic() + seconds
    while True:
        value = await asyncio.to_thread(look)
        if value <= wanted or time.monotonic() > deadline:
            return value
        await asyncio.sleep(0.5)


async def quiet(gateway: Gateway, wanted: Callable[[], int | None]) -> int:
    """The descriptors of a gateway that nobody uses: the least of a while, or `wanted`."""
    least, deadline = gateway.descriptors(), time.monotonic() + 25
    while time.monotonic() < deadline and (wanted() is None or least > (wanted() or 0)):
        await asyncio.sleep(0.5)
        least = min(least, gateway.descriptors())
    return least


if __name__ == "__main__":
    sys.exit(main())
