"""Sender threads: whole ranges to fast, slow, silent and vanishing peers, plain and over TLS."""

import asyncio
import hashlib
import os
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from mender_gateway.net.bulk import Bulk, FileTruncated, read_now
from mender_gateway.net.poller import Poller
from mender_gateway.net.stream import Stream
from tests.support.pki import ServerPki, make_server_pki

SIZE = 12 * 1024 * 1024 + 12345
"""More than the kernel's buffers hold, and more than a job's turn."""


class Place:
    """A poller, sender threads, an open file, and pairs of streams with blocking sockets."""

    def __init__(self, file: Path, threads: int, pki: ServerPki | None) -> None:
        loop = asyncio.get_running_loop()
        self.poller = Poller(loop)
        self.bulk = Bulk(loop, threads)
        self.fd = os.open(file, os.O_RDWR)
        self._pki = pki
        self._ends: list[tuple[Stream, socket.socket]] = []

    async def pair(self, buffer: int | None = None) -> tuple[Stream, socket.socket]:
        """A stream and the socket at its other end, whose kernel takes about `buffer` bytes."""
        other = socket.socket()
        other.settimeout(20.0)
        if buffer is not None:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            other.connect(listener.getsockname())
            sock, _ = listener.accept()
        sock.setblocking(False)
        stream = Stream(sock, self.poller, "127.0.0.1")
        if self._pki is not None:
            stream.secure(self._pki.server_context())
            client = self._pki.client_context()
            securing = asyncio.create_task(
                asyncio.to_thread(client.wrap_socket, other, server_hostname="localhost")
            )
            await stream.handshake(10.0)
            other = await securing
        self._ends.append((stream, other))
        return stream, other

    async def send(self, stream: Stream, start: int, end: int, timeout: float = 30.0) -> None:
        await self.bulk.send(stream, self.fd, start, end, timeout)

    async def close(self) -> None:
        for stream, other in self._ends:
            other.close()
            stream.abort()
        await asyncio.to_thread(self.bulk.close)
        self.poller.close()
        os.close(self.fd)


Body = Callable[[Place], Awaitable[None]]
Run = Callable[..., None]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> ServerPki:
    return make_server_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes((os.urandom(1 << 20) * (SIZE // (1 << 20) + 1))[:SIZE])
    return path


@pytest.fixture(params=["plain", "tls"])
def run(request: pytest.FixtureRequest, file: Path, pki: ServerPki) -> Run:
    def call(body: Body, threads: int = 2) -> None:
        async def main() -> None:
            place = Place(file, threads, pki if request.param == "tls" else None)
            try:
                async with asyncio.timeout(60):
                    await body(place)
            finally:
                await place.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    return call


def taken(other: socket.socket, size: int) -> str:
    """The digest of the next `size` bytes."""
    digest = hashlib.sha256()
    while size:
        data = other.recv(min(size, 1 << 16))
        assert data, f"{size} bytes are missing"
        digest.update(data)
        size -= len(data)
    return digest.hexdigest()


def part(file: Path, start: int, end: int) -> str:
    return hashlib.sha256(file.read_bytes()[start:end]).hexdigest()


def test_a_range_arrives_whole_and_the_connection_goes_on(run: Run, file: Path) -> None:
    async def body(place: Place) -> None:
        stream, other = await place.pair()
        for start, end in ((0, SIZE), (5, 6), (1 << 20, SIZE - 1), (7, 7)):
            reading = asyncio.create_task(asyncio.to_thread(taken, other, end - start))
            await place.send(stream, start, end)
            assert await reading == part(file, start, end)
        other.sendall(b"next")
        assert await stream.receive(10.0) == b"next"

    run(body)


def test_many_peers_share_one_thread_while_one_of_them_takes_nothing(run: Run, file: Path) -> None:
    async def body(place: Place) -> None:
        silent, _ = await place.pair()
        stuck = asyncio.create_task(place.send(silent, 0, SIZE))
        pairs = [await place.pair() for _ in range(8)]
        readings = [
            asyncio.create_task(asyncio.to_thread(taken, other, SIZE)) for _, other in pairs
        ]
        await asyncio.gather(*(place.send(stream, 0, SIZE) for stream, _ in pairs))
        assert {await reading for reading in readings} == {part(file, 0, SIZE)}
        assert not stuck.done()
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck

    run(body, threads=1)


def test_a_peer_that_takes_nothing_for_too_long_is_given_up(run: Run) -> None:
    async def body(place: Place) -> None:
        stream, other = await place.pair()
        with pytest.raises(TimeoutError):
            await place.send(stream, 0, SIZE, timeout=0.5)
        with pytest.raises((OSError, AssertionError)):
            taken(other, SIZE)

    run(body)


def test_a_slow_peer_that_takes_something_now_and_then_is_not_given_up(
    run: Run, file: Path
) -> None:
    async def body(place: Place) -> None:
        stream, other = await place.pair(buffer=16 * 1024)
        sending = asyncio.create_task(place.send(stream, 0, SIZE, timeout=1.5))
        loop = asyncio.get_running_loop()
        got, slow_until = hashlib.sha256(), loop.time() + 4.0
        size = SIZE
        while loop.time() < slow_until:
            data = await asyncio.to_thread(other.recv, 64 * 1024)
            got.update(data)
            size -= len(data)
            await asyncio.sleep(0.2)
        assert not sending.done()

        def rest() -> str:
            left = size
            while left:
                data = other.recv(1 << 16)
                assert data
                got.update(data)
                left -= len(data)
            return got.hexdigest()

        assert await asyncio.to_thread(rest) == part(file, 0, SIZE)
        await sending

    run(body)


def test_a_peer_that_resets_ends_the_range_and_nothing_else(run: Run, file: Path) -> None:
    async def body(place: Place) -> None:
        (stream, other), (second, another) = await place.pair(), await place.pair()
        sending = asyncio.create_task(place.send(stream, 0, SIZE))
        await asyncio.to_thread(taken, other, 1000)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.close()
        with pytest.raises(OSError) as caught:
            await sending
        assert not isinstance(caught.value, TimeoutError | FileTruncated)
        reading = asyncio.create_task(asyncio.to_thread(taken, another, SIZE))
        await place.send(second, 0, SIZE)
        assert await reading == part(file, 0, SIZE)

    run(body)


def test_a_file_that_became_shorter_ends_the_range_with_an_error(run: Run, file: Path) -> None:
    async def body(place: Place) -> None:
        stream, other = await place.pair()
        os.truncate(file, 1000)
        reading = asyncio.create_task(asyncio.to_thread(taken, other, 1000))
        with pytest.raises(FileTruncated):
            await place.send(stream, 0, SIZE)
        await reading

    run(body)


def test_cutting_and_cancelling_let_go_of_the_descriptors_soon(run: Run) -> None:
    async def body(place: Place) -> None:
        for end in (Stream.cut, None):
            stream, other = await place.pair()
            sending = asyncio.create_task(place.send(stream, 0, SIZE))
            await asyncio.to_thread(taken, other, 1000)
            if end is not None:
                end(stream)
                with pytest.raises(OSError):
                    await sending
            else:
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
            stream.abort()

    run(body)


def test_progress_is_told_however_a_range_ends(run: Run) -> None:
    async def body(place: Place) -> None:
        told: list[int] = []
        stream, other = await place.pair()
        reading = asyncio.create_task(asyncio.to_thread(taken, other, SIZE))
        await place.bulk.send(stream, place.fd, 0, SIZE, 10.0, told.append)
        await reading
        with pytest.raises(TimeoutError):
            await place.bulk.send(stream, place.fd, 0, SIZE, 0.5, told.append)
        assert told[0] == SIZE
        assert 0 < told[1] < SIZE

    run(body)


class Disk:
    """A file on a disk that does not answer before it is `answering`."""

    def __init__(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fd = os.open(file, os.O_RDONLY)
        self.answering = threading.Event()
        sendfile, preadv = os.sendfile, os.preadv

        def slow_sendfile(out: int, fd: int, offset: int, count: int) -> int:
            assert fd != self.fd or self.answering.wait(30)
            return sendfile(out, fd, offset, count)

        def slow_preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
            assert fd != self.fd or self.answering.wait(30)
            return preadv(fd, buffers, offset)

        monkeypatch.setattr(os, "sendfile", slow_sendfile)
        monkeypatch.setattr(os, "preadv", slow_preadv)


@pytest.fixture
def disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(file, monkeypatch)
    yield disk
    disk.answering.set()
    os.close(disk.fd)


def test_who_waits_for_a_thread_is_not_blamed_for_it(run: Run, file: Path, disk: Disk) -> None:
    """The only thread is at the disk."""

    async def body(place: Place) -> None:
        (first, _), (second, other) = await place.pair(), await place.pair()
        stuck = asyncio.create_task(place.bulk.send(first, disk.fd, 0, 100, 0.3))
        waiting = asyncio.create_task(place.send(second, 0, 1000, timeout=0.3))
        done, _ = await asyncio.wait({stuck, waiting}, timeout=1.5)
        disk.answering.set()
        assert not done
        await stuck
        await waiting
        assert await asyncio.to_thread(taken, other, 1000) == part(file, 0, 1000)

    run(body, threads=1)


def test_the_threads_are_not_waited_for_without_end(run: Run, disk: Disk) -> None:
    async def body(place: Place) -> None:
        pairs = [await place.pair() for _ in range(2)]
        sendings = [
            asyncio.create_task(place.bulk.send(stream, disk.fd, 0, SIZE, 30.0))
            for stream, _ in pairs
        ]
        await asyncio.wait(sendings, timeout=0.2)
        await asyncio.to_thread(place.bulk.close)
        assert not any(sending.done() for sending in sendings)
        for stream, _ in pairs:
            stream.cut()
        disk.answering.set()  # what the threads do now disturbs nobody
        for sending in sendings:
            with pytest.raises(OSError):
                await sending

    run(body)


def test_a_closed_stream_is_refused(run: Run) -> None:
    async def body(place: Place) -> None:
        stream, _ = await place.pair()
        stream.abort()
        with pytest.raises(ConnectionResetError):
            await place.send(stream, 0, SIZE)

    run(body)


def test_bytes_that_come_while_a_range_is_sent_are_there_afterwards(run: Run, file: Path) -> None:
    async def body(place: Place) -> None:
        stream, other = await place.pair()
        sending = asyncio.create_task(place.send(stream, 0, SIZE))
        other.sendall(b"pipelined")
        assert await asyncio.to_thread(taken, other, SIZE) == part(file, 0, SIZE)
        await sending
        assert await stream.receive(10.0) == b"pipelined"

    run(body)


def test_bytes_that_are_not_in_memory_are_left_to_the_threads(file: Path) -> None:
    with file.open("rb") as data:
        fd = data.fileno()
        expected = os.pread(fd, 4096, 8192)
        try:
            os.preadv(fd, [bytearray(4096)], 8192, os.RWF_NOWAIT)
        except OSError as error:
            pytest.skip(f"this file system does not tell: {error}")
        assert read_now(fd, 8192, 4096) == expected
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert read_now(fd, 8192, 4096) is None
        assert os.pread(fd, 4096, 8192) == expected
        assert read_now(fd, 8192, 4096) == expected
