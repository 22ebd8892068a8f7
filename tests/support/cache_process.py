"""Gateway processes that share a cache directory, each driven by a test over its standard streams.

The test keeps the scripted origins and serves them on a Unix socket, so that it sees every download
of every process. Run as a module this is the process itself; commands and answers are JSON lines.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvloop

from mender_gateway.cache import (
    Attributes,
    Bypass,
    Cache,
    CacheSettings,
    Event,
    FillBroken,
    OriginRefused,
    Reader,
    VerificationFailed,
)
from tests.support.cache_disk import FaultyDisk
from tests.support.cache_origin import ScriptedOrigin, object_id

_LINE = 65536


@contextlib.asynccontextmanager
async def serve(path: Path, origins: dict[str, ScriptedOrigin]) -> AsyncIterator[None]:
    """Serves scripted origins by name; one connection is one download."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            name, offset, validator = json.loads(await reader.readline())
            try:
                source = await origins[name].open(offset, validator)
            except OriginRefused as refusal:
                writer.write(json.dumps({"refused": str(refusal)}).encode() + b"\n")
                return
            a = source.attributes
            head = {
                "attributes": [a.length, a.content_type, a.etag, a.last_modified],
                "offset": source.offset,
            }
            writer.write(json.dumps(head).encode() + b"\n")
            while data := await source.read():
                writer.write(data)
                await writer.drain()
        except Exception:
            writer.transport.abort()
        finally:
            writer.close()

    server = await asyncio.start_unix_server(answer, path)
    try:
        yield
    finally:
        server.close()


class SocketSource:
    def __init__(
        self,
        attributes: Attributes,
        offset: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.attributes = attributes
        self.offset = offset
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes | memoryview:
        return await self._reader.read(_LINE)

    async def aclose(self) -> None:
        self._writer.close()


class SocketOrigin:
    """The named origin behind a test's socket."""

    def __init__(self, path: str, name: str) -> None:
        self._path = path
        self._name = name

    async def open(self, offset: int, validator: str | None) -> SocketSource:
        reader, writer = await asyncio.open_unix_connection(self._path)
        writer.write(json.dumps([self._name, offset, validator]).encode() + b"\n")
        line = await reader.readline()
        if not line:
            writer.close()
            raise ConnectionError("the origin broke")
        head = json.loads(line)
        if "refused" in head:
            writer.close()
            raise OriginRefused(ValueError(head["refused"]))
        return SocketSource(Attributes(*head["attributes"]), head["offset"], reader, writer)


class Refusing:
    """A verifier that refuses at the end."""

    def __init__(self, attributes: Attributes, /) -> None:
        self._attributes = attributes

    def feed(self, data: bytes | memoryview, /) -> None:
        return

    def finish(self) -> str | None:
        raise VerificationFailed("refused")


class Process:
    """The test's end of one process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            self._answers.pop(answer["number"]).set_result(answer["value"])
        for future in self._answers.values():
            future.set_result("dead")

    def call(self, command: str, **arguments: Any) -> "asyncio.Future[Any]":
        """Sends a command; the answer, or "dead" when the process ends before it."""
        assert self._process.stdin is not None
        self._number += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[self._number] = future
        arguments.update(command=command, number=self._number)
        self._process.stdin.write(json.dumps(arguments).encode() + b"\n")
        return future

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self._process.wait()
        await self._listening

    async def end(self) -> None:
        """Closes the cache in good order."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
        if self._process.stdin is not None:
            self._process.stdin.close()
        async with asyncio.timeout(20):
            await self._process.wait()
            await self._listening


@contextlib.asynccontextmanager
async def process(directory: Path, socket: Path, **settings: Any) -> AsyncIterator[Process]:
    """A process with a cache on the directory, ended with the block."""
    arguments = json.dumps({"min_free_space": 0, "chunk": 65536, "room_patience": 0.0, **settings})
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.cache_process"),
        *(str(directory), str(socket), arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    driven = Process(child)
    try:
        assert await driven.call("hello") == "hello"
        yield driven
    finally:
        await driven.end()


class Driven:
    """The process itself: readers by name, commands as methods."""

    def __init__(self, cache: Cache, socket: str, disk: FaultyDisk) -> None:
        self._cache = cache
        self._socket = socket
        self._disk = disk
        self._readers: dict[str, Reader] = {}
        self.kinds: list[str] = []

    async def hello(self) -> str:
        return "hello"

    async def acquire(self, name: str, as_: str = "", refusing: bool = False) -> str:
        origin = SocketOrigin(self._socket, name)
        verifier = Refusing if refusing else None
        try:
            reader = await self._cache.acquire(object_id(name), origin, verifier)
        except Bypass as bypass:
            return f"bypass: {bypass.reason}"
        except OriginRefused:
            return "refused"
        self._readers[as_ or name] = reader
        return reader.outcome

    async def wait(self, name: str, offset: int) -> int | str:
        try:
            return await self._readers[name].wait(offset)
        except FillBroken as broken:
            return "resumable" if broken.resumable else "changed" if broken.changed else "aborted"

    async def read(self, name: str, start: int = 0, end: int | None = None) -> str:
        """The SHA-256 of a range, or how its fill broke."""
        reader = self._readers[name]
        end = reader.attributes.length if end is None else end
        digest = hashlib.sha256()
        while start < end:
            ready = await self.wait(name, start)
            if isinstance(ready, str):
                return ready
            data = os.pread(reader.fd, min(ready, end) - start, start)
            digest.update(data)
            start += len(data)
        return digest.hexdigest()

    async def release(self, name: str) -> None:
        self._readers.pop(name).release()

    async def figures(self) -> dict[str, Any]:
        figures = self._cache.figures()
        return {name: getattr(figures, name) for name in figures.__slots__}

    async def settle(self) -> None:
        """Returns once what was let go is closed: a lookup goes through the same threads."""
        await asyncio.gather(*(self._cache.recall(object_id("none")) for _ in range(20)))

    async def events(self) -> list[str]:
        return self.kinds

    async def die_at(self, calls: int) -> None:
        """Kills this process at a disk call so many calls from now."""
        self._disk.kill_at = len(self._disk.calls) + calls


async def main(directory: str, socket: str, settings: str) -> None:
    disk = FaultyDisk()
    kinds: list[str] = []

    def report(event: Event) -> None:
        kinds.append(event.kind.value)

    chosen = CacheSettings(**json.loads(settings))
    cache = Cache(directory, settings=chosen, report=report, disk=disk, luck=lambda: 0.5)
    driven = Driven(cache, socket, disk)
    driven.kinds = kinds
    await cache.start()
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    running = set()

    async def answer(number: int, command: str, arguments: dict[str, Any]) -> None:
        value = await getattr(driven, command)(**arguments)
        print(json.dumps({"number": number, "value": value}), flush=True)

    while line := await lines.readline():
        arguments = json.loads(line)
        number, command = arguments.pop("number"), arguments.pop("command")
        task = asyncio.create_task(answer(number, command, arguments))
        running.add(task)
        task.add_done_callback(running.discard)
    for task in running:
        task.cancel()
    await cache.close()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
