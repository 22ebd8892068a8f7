"""Devices that ask at once for one object, as a program: `python -m benchmarks.load.devices`.

One thread and one selector drive all of them, so that the devices cost as little as they can. A
device whose connection ends early waits a moment and resumes with Range where it stopped, as real
clients do, but without ever giving up. At the end one line of JSON tells how it went.
"""

import argparse
import json
import re
import selectors
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

from benchmarks.load.wrk import LoadFailed
from benchmarks.machine import ROOT

_RETRY = 0.5
_READ = 256 * 1024
_GRACE = 30.0
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RANGE = re.compile(rb"\r\ncontent-range: *bytes (\d+)-\d+/(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Downloads:
    """What came of `count` devices; times in seconds from their common start."""

    finished: int
    seconds: float
    """Until the last one was done, or the deadline."""
    first_byte: float | None
    """The longest wait for a first byte of the object; None when a device got none."""
    attempts: int
    received: int
    """Bytes of the object, by all devices together."""


def drive(port: int, target: str, count: int, deadline: float) -> Downloads:
    """Runs the program; blocks for at most `deadline` seconds and a little. Raises LoadFailed."""
    command = [
        *(sys.executable, "-m", "benchmarks.load.devices", str(port), target),
        *("--count", str(count), "--deadline", str(deadline)),
    ]
    try:
        ran = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=deadline + _GRACE
        )
    except subprocess.TimeoutExpired:
        raise LoadFailed("the devices did not end in time") from None
    if ran.returncode != 0:
        raise LoadFailed(f"the devices failed:\n{ran.stderr[-2000:]}")
    return Downloads(**json.loads(ran.stdout.strip().rpartition("\n")[2]))


class _Device:
    """One download; `sock` is None between two attempts."""

    __slots__ = ("attempts", "first", "head", "received", "request", "resume_at", "sock", "total")

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.sock: socket.socket | None = None
        self.head: bytearray | None = None
        """The answer's head as far as it is there; None inside the body."""
        self.received = 0
        self.total: int | None = None
        self.first: float | None = None
        self.attempts = 0
        self.resume_at = 0.0

    @property
    def done(self) -> bool:
        return self.received == self.total

    def begin(self, port: int) -> socket.socket:
        """Connects and asks; the kernel takes the few bytes at once."""
        self.attempts += 1
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        resume = b"Range: bytes=%d-\r\n" % self.received if self.total is not None else b""
        sock.sendall(self.request + resume + b"\r\n")
        sock.setblocking(False)
        self.sock, self.head = sock, bytearray()
        return sock

    def take(self, data: memoryview, now: float) -> None:
        """Bytes of the answer. Raises ValueError for one that a real client refuses."""
        size = len(data)
        if self.head is not None:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            size = len(self.head) - end - 4
            self._judge(bytes(self.head[: end + 2]))
            self.head = None
        if size and self.first is None:
            self.first = now
        self.received += size
        if self.total is not None and self.received > self.total:
            raise ValueError("more bytes than announced")

    def _judge(self, head: bytes) -> None:
        status = _STATUS.match(head)
        code = int(status[1]) if status else 0
        if self.total is None:
            length = _LENGTH.search(head)
            if code != 200 or length is None:
                raise ValueError(f"status {code}")
            self.total = int(length[1])
            return
        given = _RANGE.search(head)
        if code != 206 or given is None or int(given[1]) != self.received:
            raise ValueError(f"status {code} for a resume")


def _run(port: int, target: str, count: int, deadline: float) -> Downloads:
    fields = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
    devices = [_Device(fields.encode()) for _ in range(count)]
    buffer = memoryview(bytearray(_READ))
    began = time.monotonic()
    with selectors.DefaultSelector() as watched:
        while True:
            now = time.monotonic() - began
            left = [device for device in devices if not device.done]
            if not left or now > deadline:
                break
            for device in left:
                if device.sock is None and device.resume_at <= now:
                    _begin(device, port, watched, now)
            for key, _ in watched.select(0.05):
                _progress(key.data, buffer, watched, time.monotonic() - began)
        for key in list(watched.get_map().values()):
            key.data.sock.close()
    firsts = [device.first for device in devices]
    return Downloads(
        finished=sum(device.done for device in devices),
        seconds=time.monotonic() - began,
        first_byte=None if None in firsts else max(first or 0.0 for first in firsts),
        attempts=sum(device.attempts for device in devices),
        received=sum(device.received for device in devices),
    )


def _begin(device: _Device, port: int, watched: selectors.BaseSelector, now: float) -> None:
    try:
        watched.register(device.begin(port), selectors.EVENT_READ, device)
    except OSError:
        device.resume_at = now + _RETRY


def _progress(
    device: _Device, buffer: memoryview, watched: selectors.BaseSelector, now: float
) -> None:
    sock = device.sock
    if sock is None:
        return
    try:
        size = sock.recv_into(buffer)
        if size:
            device.take(buffer[:size], now)
    except BlockingIOError:
        return
    except (OSError, ValueError):
        size = 0
    if not size or device.done:
        watched.unregister(sock)
        sock.close()
        device.sock = None
        device.resume_at = now + _RETRY


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("target")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--deadline", type=float, required=True)
    given = parser.parse_args()
    found = _run(given.port, given.target, given.count, given.deadline)
    print(json.dumps({name: getattr(found, name) for name in Downloads.__slots__}))


if __name__ == "__main__":
    _main()
