"""What goes wrong in the soak: every second something, at random, from a seed.

Each fault that costs the uplink bytes through nobody's fault but its own writes down how many at
most, so that the account at the end can be strict about the rest.
"""

import asyncio
import random
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mender_gateway.cache.shelf import Shelf
from mender_gateway.demo.exchanges import Exchange
from mender_gateway.demo.faults import Gate, answer, cut, expired, ignoring_range, slow, stalled
from tests.soak.account import Account
from tests.soak.place import Place

TAIL = 5 << 20
"""Bytes of a fill that a killed process may lose: a chunk of 4 MiB, and what was on its way."""


@dataclass
class Faults:
    place: Place
    luck: random.Random
    account: Account
    gentle: bool = False
    """Only the line fails from now on."""
    counts: dict[str, int] = field(default_factory=dict)

    async def run(self, stop: asyncio.Event) -> None:
        kinds: list[tuple[float, Callable[[], Awaitable[None]], bool]] = [
            (6, self.cut, True),
            (3, self.reset, True),
            (3, self.stall, True),
            (3, self.refuse, True),
            (1, self.expire, True),
            (1, self.drip, True),
            (1, self.ignore_ranges, True),
            (1, self.change, False),
            (2, self.kill, False),
            (0.5, self.restart, False),
            (0.3, self.fill_up, False),
            (0.3, self.read_only, False),
            (0.2, self.empty, False),
        ]
        while not stop.is_set():
            usable = [kind for kind in kinds if kind[2] or not self.gentle]
            [(_, fault, _)] = self.luck.choices(usable, [kind[0] for kind in usable])
            name = fault.__name__
            self.counts[name] = self.counts.get(name, 0) + 1
            began = asyncio.get_running_loop().time()
            await fault()
            took = asyncio.get_running_loop().time() - began
            await asyncio.sleep(max(0.05, 1.0 - took))

    # -- the line and the store ---------------------------------------------------------------

    def _some(self) -> int:
        return self.luck.randrange(1, 6 << 20)

    async def cut(self) -> None:
        self.place.cloud.storage.script("GET /*", cut(self._some()))

    async def reset(self) -> None:
        self.place.cloud.storage.script("GET /*", cut(self._some(), reset=True))

    async def stall(self) -> None:
        gate = Gate()
        self.place.cloud.storage.script("GET /*", stalled(self._some(), gate))
        asyncio.get_running_loop().call_later(self.luck.uniform(1, 6), gate.release)

    async def refuse(self) -> None:
        status = self.luck.choice((500, 502, 503, 429))
        self.place.cloud.storage.script("GET /*", answer(status, body=b"<Error/>"))

    async def expire(self) -> None:
        self.place.cloud.storage.script("GET /*", expired())

    async def drip(self) -> None:
        self.place.cloud.storage.script("GET /*", slow(2_000_000))

    async def ignore_ranges(self) -> None:
        def fits(exchange: Exchange) -> bool:
            wanted = exchange.header("range") or ""
            start = wanted.removeprefix("bytes=").partition("-")[0]
            if not start.isdigit() or start == "0":
                return False
            self.account.excuse("a range was ignored", int(start))
            return True

        self.place.cloud.storage.script(fits, ignoring_range())

    async def change(self) -> None:
        name = self.luck.choice(sorted(self.place.artifacts))
        self.place.cloud.storage.change_etag(name, f'"version-{self.luck.randrange(10**9)}"')

    # -- the processes ------------------------------------------------------------------------

    async def kill(self) -> None:
        """The first gateway only; the second is watched for leaks over the whole run."""
        gateway = self.place.gateways[0]
        await asyncio.to_thread(self.account.life_ends, gateway)
        fills = self.account.fills_of(gateway)
        gateway.process.process.kill()
        await asyncio.to_thread(gateway.process.process.wait)
        self.account.excuse("the tails of fills that were killed", fills * TAIL)
        await asyncio.sleep(self.luck.uniform(0, 2))
        await asyncio.to_thread(gateway.start)

    async def restart(self) -> None:
        gateway = self.place.gateways[0]
        await asyncio.to_thread(self.account.life_ends, gateway)
        fills = self.account.fills_of(gateway)
        await asyncio.to_thread(gateway.process.stop, signal.SIGTERM)
        self.account.excuse("the tails of fills that were stopped", fills * TAIL)
        await asyncio.to_thread(gateway.start)

    # -- the disk -----------------------------------------------------------------------------

    async def fill_up(self) -> None:
        if not self.place.mounted:
            return
        hog = self.place.disk / "hog"

        def fill() -> None:
            try:
                with hog.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(1 << 20))
            except OSError:
                pass

        await asyncio.to_thread(fill)
        await asyncio.sleep(self.luck.uniform(0.5, 2))
        hog.unlink(missing_ok=True)
        self._spoilt()

    async def read_only(self) -> None:
        if not self.place.mounted:
            return
        command = ["mount", "-o", "remount,ro", str(self.place.disk)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True)
        if done.returncode:
            return  # files are open for writing: the kernel refuses
        await asyncio.sleep(self.luck.uniform(0.5, 2))
        command[2] = "remount,rw"
        await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
        self._spoilt()

    async def empty(self) -> None:
        self._spoilt(whole=True)
        shutil.rmtree(self.place.cache / "v1", ignore_errors=True)

    def _spoilt(self, *, whole: bool = False) -> None:
        """Fills lost to the disk: their tails, or all they had."""
        for partial in Shelf(str(self.place.cache)).arriving():
            if whole or partial.filling:
                lost = partial.position if whole else min(partial.position, TAIL)
                self.account.excuse("what the disk lost", lost)
