"""The repeat rule: what is sent a second time, and that nothing else ever is.

Each case makes the gateway pool a connection and lets the upstream end it under the next request,
at a moment of the test's choosing, so that the end cannot be noticed before use.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.messages import asking, chunked
from tests.support.scripted import Peer, connect, scripted_server
from tests.support.served import Start
from tests.support.stage import eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
DEPLOYMENTS = "/api/devices/v1/deployments/device/deployments"


@dataclass
class Upstream:
    """Answers the first request of its first connection, the warm one. What comes after that is
    left to `ends`, one for each connection in turn; connections without one answer everything.
    """

    ends: tuple[Callable[[Peer], None], ...]
    arrived: list[bytes] = field(default_factory=list)
    """Heads after the first, with their bodies where they were answered."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    connections: int = 0

    def play(self, peer: Peer) -> None:
        with self.lock:
            number = self.connections
            self.connections += 1
        if number == 0:
            peer.read_body(peer.read_head())
            peer.send(OK)
        if number < len(self.ends):
            if head := peer.read_head():
                self.arrived.append(head)
                self.ends[number](peer)
            return
        while head := peer.read_head():
            self.arrived.append(head + peer.read_body(head))
            peer.send(OK)


@dataclass
class Case:
    upstream: Upstream
    gateway: GatewayProcess

    def exchange(self, message: bytes) -> tuple[int, bytes]:
        """The answer to `message` on a device connection of its own."""
        with connect(self.gateway.ports["http"]) as peer:
            peer.send(message)
            status, _, body = peer.answer()
            return status, body

    def with_pooled(self, message: bytes) -> tuple[int, bytes]:
        """The same, over an upstream connection that has served a request before."""
        assert self.exchange(asking("/warm")) == (200, b"ok")
        return self.exchange(message)


Set = Callable[..., Case]


@pytest.fixture
def case(start: Start) -> Iterator[Set]:
    servers = []

    def make(*ends: Callable[[Peer], None]) -> Case:
        upstream = Upstream(ends)
        context = scripted_server(upstream.play)
        server = context.__enter__()
        servers.append(context)
        limits = {"Limits": {"ApiFirstByte": "1s", "BodyProgress": "5s"}}
        return Case(upstream, start(server.url, limits))

    yield make
    for context in servers:
        context.__exit__(None, None, None)


def fin(peer: Peer) -> None:
    peer.finish()
    peer.sock.settimeout(1.0)
    while peer.read_some():
        pass


REPEATED = [
    ("GET", "/anything"),
    ("HEAD", "/anything"),
    ("PUT", "/api/devices/v1/inventory/device/attributes"),
    ("PATCH", "/api/devices/v1/inventory/device/attributes"),
    ("PUT", f"{DEPLOYMENTS}/3d1c/status"),
    ("PUT", f"{DEPLOYMENTS}/3d1c/log"),
    ("POST", "/api/devices/v2/deployments/device/deployments/next"),
    ("POST", f"{DEPLOYMENTS}/next"),
    ("POST", "/api/devices/v1/authentication/auth_requests"),
]
NEVER = [
    ("POST", "/anything"),
    ("PUT", "/anything"),
    ("PATCH", "/anything"),
    ("DELETE", "/anything"),
    ("OPTIONS", "/anything"),
    ("POST", "/api/devices/v1/inventory/device/attributes"),
    ("POST", f"{DEPLOYMENTS}/3d1c/status"),
    ("POST", f"{DEPLOYMENTS}/3d1c/log"),
    ("PUT", f"{DEPLOYMENTS}/next"),
    ("PUT", "/api/devices/v1/authentication/auth_requests"),
    ("POST", "/api/management/v1/deployments/deployments"),
]


def message_of(method: str, path: str, framing: str, body: bytes = b"[]") -> bytes:
    if framing == "none":
        return asking(path, method=method.encode())
    if framing == "counted":
        return asking(path, method=method.encode(), body=body)
    head = asking(path, b"Transfer-Encoding: chunked", method=method.encode())
    return head + chunked(body, 1000)


@pytest.mark.parametrize(("method", "path"), REPEATED)
@pytest.mark.parametrize("end", [Peer.reset, fin], ids=["rst", "fin"])
def test_a_request_that_an_idle_connection_swallowed_is_sent_again(
    case: Set, method: str, path: str, end: Callable[[Peer], None]
) -> None:
    made = case(end)
    framing = "none" if method in ("GET", "HEAD") else "chunked"
    message = message_of(method, path, framing)
    if method == "HEAD":
        assert made.exchange(asking("/warm")) == (200, b"ok")
        with connect(made.gateway.ports["http"]) as peer:
            peer.send(message)
            assert peer.read_head().startswith(b"HTTP/1.1 200 ")
    else:
        assert made.with_pooled(message) == (200, b"ok")
    first, second = made.upstream.arrived
    assert second.startswith(first)
    assert second.endswith(b"" if framing == "none" else b"\r\n\r\n[]")
    assert made.upstream.connections == 2


@pytest.mark.parametrize(("method", "path"), NEVER)
def test_a_request_of_any_other_kind_is_never_sent_again(case: Set, method: str, path: str) -> None:
    made = case(Peer.reset)
    status, body = made.with_pooled(message_of(method, path, "counted"))
    assert status == 502
    assert b'"request_id":"' in body
    assert len(made.upstream.arrived) == made.upstream.connections == 1


@pytest.mark.parametrize("framing", ["counted", "chunked"])
@pytest.mark.parametrize(("size", "repeated"), [(65_536, True), (65_537, False), (300_000, False)])
def test_bodies_up_to_64_kib_are_kept_for_a_repetition_and_larger_ones_never_sent_twice(
    case: Set, framing: str, size: int, repeated: bool
) -> None:
    def end(peer: Peer) -> None:
        peer.read_exactly(min(size, 20_000))
        peer.reset()

    made = case(end)
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    status, _ = made.with_pooled(message_of("PUT", f"{DEPLOYMENTS}/3d1c/log", framing, body))
    if repeated:
        assert status == 200
        assert made.upstream.arrived[1].partition(b"\r\n\r\n")[2] == body
    else:
        assert status == 502
        assert made.upstream.connections == 1


def test_a_request_is_never_sent_a_third_time(case: Set) -> None:
    made = case(Peer.reset, Peer.reset)
    assert made.with_pooled(asking("/anything"))[0] == 502
    assert len(made.upstream.arrived) == made.upstream.connections == 2


@pytest.mark.parametrize("end", [Peer.reset, fin], ids=["rst", "fin"])
def test_the_end_of_a_fresh_connection_is_no_reason_to_send_again(
    start: Start, end: Callable[[Peer], None]
) -> None:
    upstream = Upstream((lambda peer: None, end))
    upstream.connections = 1  # there is no warm connection
    with scripted_server(upstream.play) as server:
        made = Case(upstream, start(server.url))
        assert made.exchange(asking("/anything"))[0] == 502
    assert len(upstream.arrived) == 1


def test_a_request_is_never_sent_again_after_a_timeout(case: Set) -> None:
    made = case(lambda peer: peer.read_some())
    assert made.with_pooled(asking("/anything"))[0] == 504
    assert len(made.upstream.arrived) == made.upstream.connections == 1


@pytest.mark.parametrize(
    "begun",
    [b"H", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 102 Processing\r\n\r\n", b"\r\n"],
)
@pytest.mark.parametrize("end", [Peer.reset, fin], ids=["rst", "fin"])
def test_a_request_is_never_sent_again_after_any_byte_of_an_answer(
    case: Set, begun: bytes, end: Callable[[Peer], None]
) -> None:
    def begin(peer: Peer) -> None:
        peer.send(begun)
        end(peer)

    made = case(begin)
    assert made.with_pooled(asking("/anything"))[0] == 502
    assert len(made.upstream.arrived) == made.upstream.connections == 1


@pytest.mark.parametrize("end", [Peer.reset, fin], ids=["rst", "fin"])
def test_a_connection_that_ends_while_the_device_still_sends_costs_no_byte_of_the_body(
    case: Set, end: Callable[[Peer], None]
) -> None:
    def end_early(peer: Peer) -> None:
        peer.read_until(b"first")
        end(peer)

    made = case(end_early)
    assert made.exchange(asking("/warm")) == (200, b"ok")
    with connect(made.gateway.ports["http"]) as peer:
        head = asking(f"{DEPLOYMENTS}/3d1c/log", b"Transfer-Encoding: chunked", method=b"PUT")
        peer.send(head + b"5\r\nfirst\r\n")
        eventually(lambda: made.upstream.connections == 2)
        peer.send(b"6\r\nsecond\r\n0\r\n\r\n")
        assert peer.answer()[0] == 200
    assert made.upstream.arrived[1].endswith(b"\r\n\r\nfirstsecond")
