"""Large bodies pass both ways with a flat memory profile, at the pace of the slower side."""

import threading
import time
from collections.abc import Callable

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.messages import EMPTY, asking, telling
from tests.support.pki import ServerPki
from tests.support.scripted import Peer, connect
from tests.support.served import Start, with_https
from tests.support.stage import Leave, Received, Stage, eventually

MIB = 1024 * 1024
BLOCK = bytes(range(256)) * 4096
"""One MiB."""
FLAT = 24 * MIB
"""What the process may grow by, whatever passes through it: buffers, allocator, OpenSSL."""

SIZES = [
    pytest.param(256 * MIB, id="256MiB"),
    pytest.param(2048 * MIB + 12345, id="2GiB", marks=[pytest.mark.full, pytest.mark.timeout(600)]),
]


class Peak:
    """The greatest growth of a process's resident memory while it is used as a context."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        self.before = gateway.resident()
        self.growth = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.growth = max(self.growth, self.gateway.resident() - self.before)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def send_all(peer: Peer, size: int, *, chunks: bool) -> None:
    left = size
    while left:
        piece = BLOCK[: min(left, MIB)]
        peer.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunks else piece)
        left -= len(piece)
    if chunks:
        peer.send(b"0\r\n\r\n")


def take_all(peer: Peer, size: int) -> None:
    """Read `size` bytes of repeated blocks and compare them."""
    buffer = bytearray(MIB)
    view = memoryview(buffer)
    filled = len(peer.buffer)
    view[:filled] = peer.buffer
    peer.buffer = b""
    while size:
        wanted = min(size, MIB)
        while filled < wanted:
            got = peer.sock.recv_into(view[filled:wanted])
            assert got, f"ended {size - filled} bytes early"
            filled += got
        assert buffer[:wanted] == BLOCK[:wanted]
        size -= wanted
        filled = 0


def take_chunks(peer: Peer, size: int) -> None:
    taken = 0
    while length := int(peer.read_until(b"\r\n"), 16):
        data = peer.read_exactly(length)
        start = taken % MIB
        assert (BLOCK + BLOCK)[start : start + length] == data
        taken += length
        assert peer.read_exactly(2) == b"\r\n"
    assert peer.read_exactly(2) == b"\r\n"
    assert taken == size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("framing", "listener"),
    [("counted", "http"), ("counted", "https"), ("chunked", "http"), ("until close", "http")],
)
def test_a_download_passes_with_a_flat_memory_profile(
    start: Start, stage: Stage, pki: ServerPki, path: str, size: int, framing: str, listener: str
) -> None:
    def part(peer: Peer, request: Received) -> None:
        peer.send(
            {
                "counted": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size,
                "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                "until close": b"HTTP/1.1 200 OK\r\n\r\n",
            }[framing]
        )
        send_all(peer, size, chunks=framing == "chunked")
        if framing == "until close":
            raise Leave

    stage.on(path, part)
    gateway = start(stage.url, with_https(pki))
    context = pki.client_context() if listener == "https" else None
    with connect(gateway.ports[listener], context) as peer:
        peer.send(asking("/warm"))
        peer.answer()
        with Peak(gateway) as peak:
            peer.send(asking(path, version=b"1.0" if framing == "until close" else b"1.1"))
            peer.read_head()
            if framing == "chunked":
                take_chunks(peer, size)
            else:
                take_all(peer, size)
    assert peak.growth < FLAT


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("framing", "listener"), [("counted", "http"), ("counted", "https"), ("chunked", "http")]
)
def test_an_upload_passes_with_a_flat_memory_profile(
    start: Start, stage: Stage, pki: ServerPki, path: str, size: int, framing: str, listener: str
) -> None:
    def part(peer: Peer, request: Received) -> None:
        if framing == "counted":
            take_all(peer, size)
        else:
            take_chunks(peer, size)
        peer.send(EMPTY)

    stage.on(path, part)
    gateway = start(stage.url, with_https(pki))
    context = pki.client_context() if listener == "https" else None
    with connect(gateway.ports[listener], context) as peer:
        peer.send(asking("/warm"))
        peer.answer()
        field = b"Transfer-Encoding: chunked"
        if framing == "counted":
            field = b"Content-Length: %d" % size
        with Peak(gateway) as peak:
            peer.send(asking(path, field, method=b"POST"))
            send_all(peer, size, chunks=framing == "chunked")
            assert peer.answer()[0] == 200
    assert peak.growth < FLAT


def test_a_slow_reader_holds_the_upstream_back_and_costs_no_memory(
    start: Start, stage: Stage, path: str
) -> None:
    sent = [0]

    def part(peer: Peer, request: Received) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (200 * MIB))
        try:
            while True:
                peer.send(BLOCK)
                sent[0] += MIB
        except OSError:
            raise Leave from None

    stage.on(path, part)
    gateway = start(stage.url)
    readers = [connect(gateway.ports["http"], receive_buffer=16384) for _ in range(3)]
    with Peak(gateway) as peak:
        for reader in readers:
            reader.send(asking(path))
            reader.read_exactly(100_000)
        stands_still(lambda: sent[0])
        assert sent[0] < 100 * MIB
        before = sent[0]
        for _ in range(8):
            readers[0].read_exactly(MIB)
        eventually(lambda: sent[0] > before)
    assert peak.growth < FLAT
    for reader in readers:
        reader.reset()


def test_a_slow_upstream_holds_the_device_back_and_costs_no_memory(
    start: Start, stage: Stage, path: str
) -> None:
    sent = [0]
    go_on = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        assert go_on.wait(30)
        take_all(peer, 64 * MIB)
        peer.send(EMPTY)

    stage.on(path, part)
    gateway = start(stage.url)
    with connect(gateway.ports["http"]) as peer, Peak(gateway) as peak:
        peer.send(asking(path, b"Content-Length: %d" % (64 * MIB), method=b"POST"))

        def send() -> None:
            for _ in range(64):
                peer.send(BLOCK)
                sent[0] += MIB

        sender = threading.Thread(target=send)
        sender.start()
        stands_still(lambda: sent[0])
        assert sent[0] < 40 * MIB
        go_on.set()
        sender.join(30)
        assert peer.answer()[0] == 200
    assert peak.growth < FLAT


def test_an_answer_is_passed_on_as_it_comes(start: Start, stage: Stage, path: str) -> None:
    """Events trickle through at once: nothing is collected."""
    received = threading.Semaphore(0)

    def part(peer: Peer, request: Received) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(5):
            assert received.acquire(timeout=20)
            peer.send(b"6\r\nevent%d\r\n" % number)
        peer.send(b"0\r\n\r\n")

    stage.on(path, part)
    gateway = start(stage.url)
    with connect(gateway.ports["http"]) as peer:
        peer.send(asking(path))
        assert peer.read_head()
        for number in range(5):
            received.release()
            assert peer.read_until(b"event%d\r\n" % number)
        assert peer.read_until(b"0\r\n\r\n")


def test_a_device_that_takes_nothing_is_cut_by_the_write_deadline(
    start: Start, stage: Stage, path: str
) -> None:
    ended = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        try:
            peer.send(telling(bytes(100 * MIB)))
        except OSError:
            ended.set()
        raise Leave

    stage.on(path, part)
    gateway = start(stage.url, {"Limits": {"WriteStall": "1s"}})
    with connect(gateway.ports["http"], receive_buffer=16384) as peer:
        peer.send(asking(path))
        peer.read_exactly(1000)
        began = time.monotonic()
        gateway.wait_for_log('msg="answer was cut off"')
        assert 0.5 < time.monotonic() - began < 5.0
        assert ended.wait(10)
        assert not peer.read_to_end()[1]


@pytest.mark.parametrize("listener", ["http", "https"])
def test_a_device_that_takes_a_little_is_never_cut(
    start: Start, stage: Stage, pki: ServerPki, path: str, listener: str
) -> None:
    """It takes far too little for the kernel to let a send go on within the write deadline."""
    size = 12 * MIB
    stage.answer(path, telling(BLOCK * 12))
    gateway = start(stage.url, with_https(pki), {"Limits": {"WriteStall": "1s"}})
    context = pki.client_context() if listener == "https" else None
    with connect(gateway.ports[listener], context, receive_buffer=16384) as peer:
        peer.send(asking(path))
        peer.read_head()
        taken = len(peer.buffer)
        peer.buffer = b""
        slow_until = time.monotonic() + 5.0
        while time.monotonic() < slow_until:
            taken += len(peer.sock.recv(2048))
            time.sleep(0.05)
        while taken < size:
            data = peer.sock.recv(MIB)
            assert data, f"cut after {taken} bytes"
            taken += len(data)


def stands_still(figure: Callable[[], int], seconds: float = 1.0) -> None:
    """Wait until a figure has not changed for a while."""
    last, since = figure(), time.monotonic()
    deadline = since + 30
    while time.monotonic() - since < seconds:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        if figure() != last:
            last, since = figure(), time.monotonic()
