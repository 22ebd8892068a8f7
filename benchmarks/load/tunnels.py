"""WebSockets over TLS by the thousand, as a program: `python -m benchmarks.load.tunnels`.

It opens all of them, says so, and then sends messages at a steady rate whenever it is told to on
its standard input. One thread, blocking while it opens, one selector afterwards.
"""

import os
import selectors
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.load.wrk import LoadFailed
from benchmarks.machine import ROOT

_PATH = "/api/devices/v1/deviceconnect/connect"
_PAYLOAD = 32
_FRAME = bytes((0x81, 0x80 | _PAYLOAD)) + bytes(4) + b"x" * _PAYLOAD
"""A masked text frame; nobody on the way looks into it."""
_OPENING = 120.0
_LAST_WORDS = 2.0


class Tunnels:
    """Open tunnels; `send` blocks for so many seconds."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def send(self, seconds: float, rate: int) -> int:
        """Messages that came back of `rate` a second. Raises LoadFailed."""
        line = self._ask(f"{seconds} {rate}")
        sent, came = (int(number) for number in line.split())
        if came != sent:
            raise LoadFailed(f"{came} of {sent} messages came back")
        return came

    def _ask(self, text: str) -> str:
        if self._process.stdin is None:
            raise LoadFailed("the tunnels have no standard input")
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> str:
        """The program's next line; it ends by itself when something takes too long."""
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line.startswith("ok "):
            rest = self._process.communicate()[0]
            raise LoadFailed(f"the tunnels failed:\n{(line + rest)[-2000:]}")
        return line.removeprefix("ok ")


@contextmanager
def opened(port: int, count: int) -> Iterator[Tunnels]:
    """`count` open tunnels; blocks while they are opened."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load.tunnels", str(port), str(count)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        tunnels = Tunnels(process)
        tunnels.answer()
        yield tunnels
    finally:
        process.kill()
        process.communicate()


def _open(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock = context.wrap_socket(raw, server_hostname="localhost")
    sock.sendall(
        (
            f"GET {_PATH} HTTP/1.1\r\nHost: localhost:{port}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        data = sock.recv(4096)
        if not data:
            raise ConnectionError(f"no tunnel: {head!r}")
        head += data
    if not head.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(f"no tunnel: {head[:300]!r}")
    sock.setblocking(False)
    return sock


def _exchange(
    sockets: list[ssl.SSLSocket], watched: selectors.BaseSelector, seconds: float, rate: int
) -> tuple[int, int]:
    """Messages sent, one tunnel after the other, and messages that came back."""
    began = time.monotonic()
    total = int(seconds * rate)
    sent = received = 0
    while received < total * len(_FRAME):
        elapsed = time.monotonic() - began
        if elapsed > seconds + _LAST_WORDS:
            break
        due = min(total, int(elapsed * rate))
        while sent < due:
            sockets[sent % len(sockets)].send(_FRAME)
            sent += 1
        for key, _ in watched.select(1 / rate):
            try:
                received += len(key.data.recv(4096))
            except ssl.SSLWantReadError:
                continue  # a session ticket, or half a record
    return sent, received // len(_FRAME)


def _main(port: int, count: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    deadline = time.monotonic() + _OPENING
    sockets: list[ssl.SSLSocket] = []
    with selectors.DefaultSelector() as watched:
        while len(sockets) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"only {len(sockets)} tunnels after {_OPENING} s")
            try:
                sock = _open(port, context)
            except OSError as error:
                raise ConnectionError(f"tunnel number {len(sockets) + 1}: {error}") from error
            sockets.append(sock)
            watched.register(sock, selectors.EVENT_READ, sock)
        print(f"ok {len(sockets)}", flush=True)
        for line in sys.stdin:
            seconds, rate = line.split()
            sent, came = _exchange(sockets, watched, float(seconds), int(rate))
            print(f"ok {sent} {came}", flush=True)
    os._exit(0)  # two thousand polite ends are nobody's figure


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
