"""What goes wrong in the soak: every second something, in an order drawn from a seed.

Faults that take longer go on beside the next ones; those of one process, and those of the disk,
wait for each other. What a fault has cost the uplink is not guessed here: the account reads it from
what storage has sent and the gateways have logged.
"""

import asyncio
import random
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from mender_gateway.cache.shelf import Shelf
from mender_gateway.demo.exchanges import Exchange
from mender_gateway.demo.faults import (
    Behaviour,
    Gate,
    answer,
    cut,
    expired,
    ignoring_range,
    slow,
    stalled,
)
from tests.soak.account import Account
from tests.soak.place import Place
from tests.soak.schedule import schedule

OF_THE_LINE = {
    "cut": 6.0,
    "reset": 3.0,
    "stall": 3.0,
    "refuse": 3.0,
    "expire": 1.0,
    "drip": 1.0,
    "ignore_ranges": 1.0,
}
OF_THE_HOUSE = {
    "change": 1.0,
    "kill": 2.0,
    "restart": 0.5,
    "freeze": 0.5,
    "fill_up": 0.3,
    "read_only": 0.3,
    "empty": 0.2,
}


class Missed(Exception):
    """The fault found nobody to befall."""


@dataclass
class Faults:
    place: Place
    luck: random.Random
    account: Account
    counts: dict[str, int] = field(default_factory=dict)
    """How often each kind has come."""
    _process: asyncio.Lock = field(default_factory=asyncio.Lock)
    _disk: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self, seconds: int, calm: int) -> None:
        """One fault each second; in the last `calm` ones only the line fails."""
        plan = schedule({**OF_THE_LINE, **OF_THE_HOUSE}, seconds - calm, self.luck)
        plan += schedule(OF_THE_LINE, calm, self.luck)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.TaskGroup() as going_on:
            for number, kind in enumerate(plan):
                await asyncio.sleep(max(0.0, begun + number - loop.time()))
                fault: Callable[[], Awaitable[None]] = getattr(self, kind)
                going_on.create_task(self._counted(kind, fault))

    async def _counted(self, kind: str, fault: Callable[[], Awaitable[None]]) -> None:
        with suppress(Missed):
            await fault()
            self.counts[kind] = self.counts.get(kind, 0) + 1

    # -- the line and the store ---------------------------------------------------------------

    def _script(self, behaviour: Behaviour) -> None:
        self.place.cloud.storage.script("GET /*", behaviour)

    def _some(self) -> int:
        return self.luck.randrange(1, 6 << 20)

    async def cut(self) -> None:
        self._script(cut(self._some()))

    async def reset(self) -> None:
        self._script(cut(self._some(), reset=True))

    async def stall(self) -> None:
        gate = Gate()
        self._script(stalled(self._some(), gate))
        asyncio.get_running_loop().call_later(self.luck.uniform(1, 6), gate.release)

    async def refuse(self) -> None:
        status = self.luck.choice((500, 502, 503, 429))
        self._script(answer(status, body=b"<Error/>"))

    async def expire(self) -> None:
        self._script(expired())

    async def drip(self) -> None:
        self._script(slow(2_000_000))

    async def ignore_ranges(self) -> None:
        def resumes(exchange: Exchange) -> bool:
            return not (exchange.header("range") or "bytes=0-").startswith("bytes=0-")

        self.place.cloud.storage.script(resumes, ignoring_range())

    async def change(self) -> None:
        """An object changes half-way through a download, which then breaks."""
        gate = Gate()
        chosen: list[str] = []

        def begins(exchange: Exchange) -> bool:
            if exchange.header("range") is None:
                chosen.append(exchange.path.rpartition("/")[2])
                return True
            return False

        half_way = Behaviour(stall_after=1 << 20, stall=gate, cut_after=2 << 20)
        self.place.cloud.storage.script(begins, half_way)
        try:
            await asyncio.to_thread(gate.wait_reached, 90)
        except TimeoutError:
            gate.release()
            raise Missed from None
        etag = f'"version-{self.luck.randrange(10**9)}"'
        await asyncio.to_thread(self.place.cloud.storage.change_etag, chosen[0], etag)
        gate.release()

    # -- the processes ------------------------------------------------------------------------

    async def kill(self) -> None:
        """The first gateway only; the second is watched for leaks over the whole run."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        gateway = self.place.gateways[0]
        async with self._process:
            await asyncio.to_thread(self.account.life_ends, gateway)
            await asyncio.to_thread(gateway.process.stop, number)
            await asyncio.sleep(self.luck.uniform(0, 2))
            await asyncio.to_thread(gateway.start)

    async def freeze(self) -> None:
        """A process that is stopped for a while still holds its locks."""
        async with self._process:
            process = self.place.gateways[0].process.process
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(self.luck.uniform(3, 8))
            process.send_signal(signal.SIGCONT)

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

        async with self._disk, self.account.disk_trouble():
            await self._until_filling()
            await asyncio.to_thread(fill)
            await asyncio.sleep(self.luck.uniform(0.5, 2))
            await asyncio.to_thread(hog.unlink)

    async def read_only(self) -> None:
        """A read-only mount of the same directory over it: a plain remount is refused while files
        are open for writing.
        """
        if not self.place.mounted:
            return
        where = str(self.place.cache)
        async with self._disk, self.account.disk_trouble():
            await self._until_filling()
            await _command("mount", "--bind", where, where)
            await _command("mount", "-o", "remount,bind,ro", where)
            await asyncio.sleep(self.luck.uniform(0.5, 3))
            await _command("umount", "-l", where)

    async def _until_filling(self) -> None:
        """Something arrives, so that the disk's trouble is somebody's."""
        async with asyncio.timeout(60):
            shelf = Shelf(str(self.place.cache))
            while not any(partial.filling for partial in await asyncio.to_thread(shelf.arriving)):
                await asyncio.sleep(0.02)

    async def empty(self) -> None:
        async with self._disk, self.account.disk_trouble():
            for partial in Shelf(str(self.place.cache)).arriving():
                if not partial.filling:
                    self.account.spent("partials removed by hand", partial.position)
            await asyncio.to_thread(shutil.rmtree, self.place.cache / "v1", ignore_errors=True)


async def _command(*words: str) -> None:
    done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
