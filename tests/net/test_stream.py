"""Streams over real loopback sockets, on the loop that the gateway uses and on asyncio's own."""

import asyncio
import math
import socket
import struct
import time
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from mender_gateway.net.poller import Poller
from mender_gateway.net.stream import Stream

LOOPS = [
    pytest.param(uvloop.new_event_loop, id="uvloop"),
    pytest.param(asyncio.new_event_loop, id="asyncio"),
]


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection, the first one non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = socket.create_connection(listener.getsockname(), 20.0)
        sock, _ = listener.accept()
    sock.setblocking(False)
    return sock, other


Body = Callable[[Stream, socket.socket], Awaitable[None]]
Run = Callable[[Body], None]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine with a stream and the blocking socket at its other end."""

    def call(body: Body) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            sock, other = tcp_pair()
            stream = Stream(sock, Poller(loop), "127.0.0.1")
            try:
                async with asyncio.timeout(20):
                    await body(stream, other)
            finally:
                other.close()
                stream.close()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main())

    return call


async def told(stream: Stream) -> None:
    """Until the stream knows, without anybody waiting, that there is something to read."""
    while not stream.readable:
        await asyncio.sleep(0.01)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_a_reset_behind_data_is_noticed_at_once(run: Run) -> None:
    async def body(stream: Stream, other: socket.socket) -> None:
        other.sendall(b"x" * 10)
        reset(other)
        assert await stream.receive(5.0) == b"x" * 10
        began = time.monotonic()
        with pytest.raises(ConnectionResetError):
            await stream.receive(math.inf)
        assert time.monotonic() - began < 1.0

    run(body)


def test_a_reset_during_a_wait_is_noticed_at_once(run: Run) -> None:
    async def body(stream: Stream, other: socket.socket) -> None:
        other.sendall(b"x")
        assert await stream.receive(5.0) == b"x"
        asyncio.get_running_loop().call_later(0.05, reset, other)
        with pytest.raises(ConnectionResetError):
            await stream.receive(math.inf)

    run(body)


def test_sending_after_a_reset_behind_data_fails_cleanly(run: Run) -> None:
    async def body(stream: Stream, other: socket.socket) -> None:
        other.sendall(b"x" * 10)
        while stream.try_send(b"y" * 65536):
            pass
        reset(other)
        assert await stream.receive(5.0) == b"x" * 10
        with pytest.raises(OSError) as caught:
            await stream.wait_writable(5.0)
            await stream.send(b"y" * 65536, 5.0)
        assert not isinstance(caught.value, TimeoutError)

    run(body)


def test_the_end_is_seen_by_whoever_reads_next(run: Run) -> None:
    async def body(stream: Stream, other: socket.socket) -> None:
        other.sendall(b"last")
        other.close()
        assert await stream.receive(5.0) == b"last"
        assert await stream.receive(5.0) == b""

    run(body)


def test_a_wait_ends_with_its_deadline_and_not_before(run: Run) -> None:
    async def body(stream: Stream, other: socket.socket) -> None:
        for wait in (stream.wait_readable, stream.receive):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                await wait(0.3)
            assert 0.3 <= time.monotonic() - began < 2.0

    run(body)


def test_a_slow_but_living_reader_is_never_cut_and_one_that_stands_still_is(run: Run) -> None:
    """The kernel says that a send may go on only after a third of its buffer is free."""

    async def body(stream: Stream, other: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        other.setblocking(False)
        sending = asyncio.ensure_future(stream.send(bytes(30_000_000), 1.0))
        slow_until = loop.time() + 4.0
        while loop.time() < slow_until:
            assert not sending.done()
            await loop.sock_recv(other, 4096)
            await asyncio.sleep(0.02)
        began = loop.time()
        with pytest.raises(TimeoutError):
            await sending
        assert loop.time() - began < 4.0

    run(body)


def test_a_cut_ends_whoever_waits(run: Run) -> None:
    async def body(stream: Stream, other: socket.socket) -> None:
        waiting = asyncio.ensure_future(stream.receive(math.inf))
        await asyncio.sleep(0)
        stream.cut()
        with pytest.raises(ConnectionError):
            await waiting
        assert other.recv(1) == b""

    run(body)


def test_a_wait_for_two_ends_with_whichever_has_something(run: Run) -> None:
    async def body(stream: Stream, other: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        second = Stream(ours, Poller(loop))
        try:
            loop.call_later(0.05, theirs.send, b"2")
            await stream.wait_readable(5.0, also=second)
            assert (stream.readable, second.readable) == (False, True)
            assert second.try_receive() == b"2"
            loop.call_later(0.05, other.send, b"1")
            while stream.try_receive() is None:
                await stream.wait_readable(5.0, also=second)
                assert second.try_receive() is None
        finally:
            theirs.close()
            second.close()

    run(body)


def test_an_idle_connection_knows_of_its_end_and_of_unasked_bytes(run: Run) -> None:
    async def body(stream: Stream, other: socket.socket) -> None:
        assert not stream.ended()
        other.sendall(b"?")
        await stream.wait_readable(5.0)
        assert stream.ended()
        assert await stream.receive(5.0) == b"?"
        assert not stream.ended()
        other.close()
        await stream.wait_readable(5.0)
        assert stream.ended()

    run(body)


def test_an_idle_connection_that_is_heeded_hears_of_its_end(run: Run) -> None:
    async def unwatched(stream: Stream, other: socket.socket) -> None:
        other.sendall(b"!")
        await stream.wait_readable(5.0)
        assert stream.try_receive() == b"!"
        other.sendall(b"!")
        await told(stream)  # nobody waits: the first event ends the watch
        assert stream.try_receive() == b"!"
        stream.heed()
        other.close()
        await told(stream)
        assert stream.ended()

    async def broken(stream: Stream, other: socket.socket) -> None:
        other.sendall(b"!")
        reset(other)
        assert await stream.receive(5.0) == b"!"
        stream.heed()
        await told(stream)
        assert stream.ended()

    run(unwatched)
    run(broken)


def test_an_abort_is_a_reset_and_a_close_is_an_end(run: Run) -> None:
    async def aborted(stream: Stream, other: socket.socket) -> None:
        stream.abort()
        with pytest.raises(ConnectionResetError):
            other.recv(1)

    async def closed(stream: Stream, other: socket.socket) -> None:
        stream.close()
        stream.close()
        assert other.recv(1) == b""

    run(aborted)
    run(closed)


def test_lingering_lets_the_peer_read_although_it_still_sends(run: Run) -> None:
    async def body(stream: Stream, other: socket.socket) -> None:
        other.sendall(b"x" * 100_000)
        await stream.send(b"answer", 5.0)
        await stream.linger()
        other.sendall(b"x")  # the connection takes it, although nobody reads it
        assert other.recv(100) == b"answer"
        assert other.recv(100) == b""

    async def never_ending(stream: Stream, other: socket.socket) -> None:
        began = time.monotonic()
        await stream.linger()
        assert 1.5 < time.monotonic() - began < 5.0

    run(body)
    run(never_ending)
