"""An upstream on which each test plays its own part, beside others that use the same gateway.

A `Stage` is a scripted server whose connections look at each request's path and let the part that a
test registered for it do the rest, on the raw connection. So one gateway process serves many tests,
each with a path of its own.
"""

import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.scripted import Peer, ScriptedServer, scripted_server


class Leave(Exception):
    """A part raises it to end its connection at once, with what it has done so far."""


@dataclass
class Received:
    """A request as it came to the upstream."""

    head: bytes
    body: bytes = b""
    connection: int = 0
    """Number of the connection, counted from 0."""

    @property
    def start(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        lines = self.head[:-4].split(b"\r\n")[1:]
        pairs = [line.split(b": ", 1) for line in lines]
        return [(name, value) for name, value in pairs]

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name.lower()]


Part = Callable[[Peer, Received], None]


@dataclass
class Stage:
    server: ScriptedServer = None  # type: ignore[assignment]
    received: list[Received] = field(default_factory=list)
    parts: dict[str, Part] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _connections: int = 0

    @property
    def url(self) -> str:
        return self.server.url

    def on(self, path: str, part: Part) -> None:
        """Let `part` deal with the requests for `path`, from after their head on."""
        self.parts[path] = part

    def answer(self, path: str, data: bytes) -> None:
        """Take the request's body and send `data`."""

        def part(peer: Peer, request: Received) -> None:
            request.body = peer.read_body(request.head)
            peer.send(data)

        self.on(path, part)

    def of(self, path: str) -> list[Received]:
        """The requests for `path` that have come, whatever their query."""
        return [request for request in self.received if path_of(request.head) == path]

    def one(self, path: str) -> Received:
        """The only request for `path`."""
        found = self.of(path)
        assert len(found) == 1, found
        return found[0]

    def play(self, peer: Peer) -> None:
        with self._lock:
            number = self._connections
            self._connections += 1
        while head := peer.read_head():
            request = Received(head, connection=number)
            self.received.append(request)
            part = self.parts.get(path_of(head), _default)
            try:
                part(peer, request)
            except Leave:
                return


def path_of(head: bytes) -> str:
    target = head.split(b" ", 2)[1].decode("latin-1")
    return re.sub(r"^http://[^/]*", "", target).partition("?")[0]


def _default(peer: Peer, request: Received) -> None:
    request.body = peer.read_body(request.head)
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@contextmanager
def running_stage(context: ssl.SSLContext | None = None) -> Iterator[Stage]:
    stage = Stage()
    with scripted_server(stage.play, context) as server:
        stage.server = server
        yield stage


def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait until `condition` holds; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come to hold"
        time.sleep(0.01)
