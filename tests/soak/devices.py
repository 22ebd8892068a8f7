"""The devices of the soak: each downloads one artifact after the other, and resumes as clients do.

Every byte is compared with what belongs at its place, whichever gateway, answer or resumption it
came with. A download that breaks off is resumed by Range after a pause, from either gateway.
"""

import asyncio
import random
import re
import time
from dataclasses import dataclass, field

from mender_gateway.demo.blobs import GeneratedBlob
from tests.soak.place import Place

_HEAD = 20.0
_PATIENCE = 100.0
_PIECE = 64 * 1024
_ROLLOUT = 4.0
"""Seconds from the beginning of a rollout to that of the next."""
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass
class Tally:
    completed: int = 0
    resumed: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """Answers other than 200 and 206, and connections that failed, by kind."""
    bytes: int = 0
    longest: float = 0.0
    """Seconds that a device has waited for a head or for more bytes."""
    wrong: list[str] = field(default_factory=list)
    """What must never happen."""

    def waited(self, since: float) -> None:
        self.longest = max(self.longest, time.monotonic() - since)

    def refuse(self, kind: str) -> None:
        self.refused[kind] = self.refused.get(kind, 0) + 1


class Broken(Exception):
    """The answer ended before its end; the device resumes."""


@dataclass
class Device:
    place: Place
    luck: random.Random
    tally: Tally
    stop: asyncio.Event

    async def run(self) -> None:
        names = sorted(self.place.artifacts)
        began = time.monotonic()
        while not self.stop.is_set():
            # rollouts begin one after the other: the newest are asked for by many, older by few
            newest = int((time.monotonic() - began) / _ROLLOUT)
            await self.download(names[(newest - int(self.luck.expovariate(1))) % len(names)])
            await self.pause(self.luck.uniform(0.1, 2.0))

    async def pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.stop.wait()
        except TimeoutError:
            pass

    async def download(self, name: str) -> None:
        blob, at = self.place.artifacts[name], 0
        slow = self.luck.random() < 0.1
        while at < blob.size and not self.stop.is_set():
            leave = self.luck.randrange(blob.size * 8)  # now and then a device goes away half-way
            try:
                at = await self.attempt(name, blob, at, leave if leave > at else blob.size, slow)
            except Broken as broken:
                at = int(broken.args[0])
            except (OSError, TimeoutError, EOFError) as error:
                self.tally.refuse(type(error).__name__)
            if at < blob.size:
                self.tally.resumed += 1
                await self.pause(self.luck.uniform(0.3, 1.5))
        self.tally.completed += at >= blob.size

    async def attempt(self, name: str, blob: GeneratedBlob, at: int, leave: int, slow: bool) -> int:
        """One request from byte `at`; up to where the artifact is here afterwards."""
        gateway = self.luck.choice(self.place.gateways)
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection("127.0.0.1", gateway.port, limit=_PIECE), _HEAD
        )
        try:
            lines = [f"GET {self.place.paths[name]} HTTP/1.1", "Host: gateway.test"]
            if at:
                lines.append(f"Range: bytes={at}-")
            writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
            asked = time.monotonic()
            try:
                async with asyncio.timeout(_PATIENCE):
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            finally:
                self.tally.waited(asked)
            status = head.split()[1]
            if status != ("206" if at else "200"):
                self.tally.refuse(status)
                if status == "200":
                    self.tally.wrong.append(f"{name}: a range was answered with 200")
                return at
            self.check_head(name, blob, at, head)
            return await self.body(name, blob, at, leave, slow, reader)
        finally:
            writer.transport.abort()

    def check_head(self, name: str, blob: GeneratedBlob, at: int, head: str) -> None:
        length = re.search(r"(?i)content-length: (\d+)", head)
        if length is None or int(length[1]) != blob.size - at:
            self.tally.wrong.append(f"{name}: wrong length from {at}: {head!r}")
        given = _RANGE.search(head)
        if at and (
            given is None or [int(g) for g in given.groups()] != [at, blob.size - 1, blob.size]
        ):
            self.tally.wrong.append(f"{name}: wrong range from {at}: {head!r}")

    async def body(
        self,
        name: str,
        blob: GeneratedBlob,
        at: int,
        leave: int,
        slow: bool,
        reader: asyncio.StreamReader,
    ) -> int:
        while at < blob.size:
            asked = time.monotonic()
            try:
                async with asyncio.timeout(_PATIENCE):
                    data = await reader.read(_PIECE)
            except (OSError, TimeoutError) as error:
                raise Broken(at) from error
            finally:
                self.tally.waited(asked)
            if not data:
                raise Broken(at)
            if data != blob.read(at, len(data)):
                self.tally.wrong.append(f"{name}: wrong bytes between {at} and {at + len(data)}")
                return blob.size
            at += len(data)
            self.tally.bytes += len(data)
            if at >= leave:
                return at
            if slow:
                await asyncio.sleep(0.02)
        if await asyncio.wait_for(reader.read(1), 10):
            self.tally.wrong.append(f"{name}: more bytes than announced")
        return at
