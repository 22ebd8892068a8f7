"""An outbound proxy between gateway and upstream: absolute form for http, CONNECT for https."""

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.messages import asking, telling
from tests.support.pki import make_server_pki
from tests.support.scripted import Peer, connect, scripted_server
from tests.support.served import Start
from tests.support.stage import running_stage


@dataclass
class Proxy:
    """Speaks for any name: what it is asked to connect to, it connects to `target`."""

    target: int = 0
    heads: list[bytes] = field(default_factory=list)
    refusal: bytes = b""
    port: int = 0

    def play(self, peer: Peer) -> None:
        while head := peer.read_head():
            self.heads.append(head)
            if self.refusal:
                peer.send(self.refusal)
                return
            if head.startswith(b"CONNECT "):
                with socket.create_connection(("127.0.0.1", self.target), 20) as onward:
                    peer.send(b"HTTP/1.1 200 Connection established\r\nVia: proxy\r\n\r\n")
                    back = threading.Thread(target=pump, args=(onward, peer.sock))
                    back.start()
                    pump(peer.sock, onward)
                    back.join(20)
                return
            peer.read_body(head)
            peer.send(telling(b"by proxy"))


def pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@contextmanager
def running_proxy(target: int = 0, refusal: bytes = b"") -> Iterator[Proxy]:
    proxy = Proxy(target, refusal=refusal)
    with scripted_server(proxy.play) as server:
        proxy.port = server.port
        yield proxy


def ask(gateway: GatewayProcess, target: str, method: bytes = b"GET") -> tuple[int, bytes, bytes]:
    with connect(gateway.ports["http"]) as peer:
        peer.send(asking(target, method=method))
        return peer.answer()


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy"])
def test_an_http_upstream_is_asked_for_in_absolute_form(start: Start, name: str) -> None:
    with running_proxy() as proxy:
        url = f"http://user:pass@127.0.0.1:{proxy.port}"
        gateway = start("http://hosted.example:8080", environment={name: url})
        for _ in range(3):
            assert ask(gateway, "/a%2Fb?c=d", b"POST")[2] == b"by proxy"
    first = proxy.heads[0]
    assert first.startswith(b"POST http://hosted.example:8080/a%2Fb?c=d HTTP/1.1\r\n")
    assert b"\r\nHost: hosted.example:8080\r\n" in first
    expected = b"Basic " + base64.b64encode(b"user:pass")
    assert b"\r\nProxy-Authorization: " + expected + b"\r\n" in first
    assert len(proxy.heads) == 3


def test_loopback_is_never_reached_through_a_proxy(start: Start, path: str) -> None:
    with running_stage() as stage, running_proxy() as proxy:
        environment = {"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}"}
        gateway = start(stage.url, environment=environment)
        assert ask(gateway, path)[2] == b"ok"
    assert proxy.heads == []


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
def test_connect_carries_credentials_and_tls_reaches_the_upstream_itself(
    start: Start, tmp_path: Path, path: str, name: str
) -> None:
    theirs = make_server_pki(tmp_path / "hosted", ("hosted.example",))
    with running_stage(theirs.server_context()) as stage:
        with running_proxy(stage.server.port) as proxy:
            gateway = start(
                "https://hosted.example",
                {"UpstreamServer": {"CACertificate": str(theirs.ca)}},
                environment={name: f"http://us%3Aer:p%40ss%20word@127.0.0.1:{proxy.port}"},
            )
            for _ in range(3):
                assert ask(gateway, path, b"POST")[2] == b"ok"
    assert [head.split(b"\r\n")[0] for head in proxy.heads] == [
        b"CONNECT hosted.example:443 HTTP/1.1"
    ]
    head = proxy.heads[0]
    assert b"\r\nHost: hosted.example:443\r\n" in head
    expected = b"Basic " + base64.b64encode(b"us:er:p@ss word")
    assert b"\r\nProxy-Authorization: " + expected + b"\r\n" in head
    for request in stage.of(path):
        assert request.start.startswith(b"POST /test/")
        assert request.values(b"Host") == [b"hosted.example"]
        assert request.values(b"Proxy-Authorization") == []


@pytest.mark.parametrize(
    "refusal",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
        b"no proxy at all\r\n\r\n",
        b"x" * 100_000,
        b" ",
    ],
    ids=["407", "403", "502", "other", "endless", "end"],
)
def test_a_proxy_that_refuses_is_a_502(start: Start, path: str, refusal: bytes) -> None:
    with running_proxy(refusal=refusal) as proxy:
        gateway = start(
            "https://hosted.example",
            environment={"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"},
        )
        status, _, body = ask(gateway, path)
        assert status == 502
        assert b'"request_id":"' in body
        gateway.wait_for_log("status=502")


def test_a_proxy_that_does_not_answer_is_a_504(start: Start, path: str) -> None:
    def silent(peer: Peer) -> None:
        peer.read_to_end()

    with scripted_server(silent) as proxy:
        gateway = start(
            "https://hosted.example",
            {"Limits": {"Connect": "1s"}},
            environment={"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"},
        )
        assert ask(gateway, path)[0] == 504


def test_a_proxy_that_is_not_there_is_a_502(start: Start, path: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    environment = {"HTTP_PROXY": f"http://127.0.0.1:{port}"}
    gateway = start("http://hosted.example", environment=environment)
    assert ask(gateway, path)[0] == 502


@pytest.mark.parametrize(
    "no_proxy", ["hosted.invalid", ".invalid", "*", "a.example hosted.invalid"]
)
def test_no_proxy_exempts_an_upstream(start: Start, path: str, no_proxy: str) -> None:
    with running_proxy() as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        exempt = start(
            "http://hosted.invalid", environment={"HTTP_PROXY": url, "NO_PROXY": no_proxy}
        )
        assert ask(exempt, path)[0] == 502
        assert proxy.heads == []
        other = start(
            "http://hosted.invalid", environment={"HTTP_PROXY": url, "NO_PROXY": "x.invalid"}
        )
        assert ask(other, path)[2] == b"by proxy"
