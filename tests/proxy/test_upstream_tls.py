"""Upstreams over TLS: whom the gateway trusts, and what it says when it does not."""

from pathlib import Path

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.messages import asking, telling
from tests.support.pki import ServerPki, make_server_pki
from tests.support.scripted import Peer, connect, scripted_server
from tests.support.served import Start
from tests.support.stage import Leave, Received, Stage, running_stage


def trusting(pki: ServerPki) -> dict[str, object]:
    return {"UpstreamServer": {"CACertificate": str(pki.ca)}}


def ask(gateway: GatewayProcess, path: str, method: bytes = b"GET") -> tuple[int, bytes, bytes]:
    with connect(gateway.ports["http"]) as peer:
        peer.send(asking(path, method=method))
        return peer.answer()


def test_an_upstream_of_a_private_ca_is_reached_and_its_connection_kept(
    start: Start, pki: ServerPki, path: str
) -> None:
    with running_stage(pki.server_context()) as stage:
        gateway = start(stage.url, trusting(pki))
        for _ in range(5):
            assert ask(gateway, path, b"POST")[2] == b"ok"
        assert len({request.connection for request in stage.of(path)}) == 1
        assert stage.of(path)[0].values(b"Host") == [f"127.0.0.1:{stage.server.port}".encode()]


def test_the_end_of_an_idle_tls_connection_is_noticed_before_use(
    start: Start, pki: ServerPki, path: str
) -> None:
    def part(peer: Peer, request: Received) -> None:
        peer.send(telling(b"ok"))
        raise Leave

    with running_stage(pki.server_context()) as stage:
        stage.on(path, part)
        gateway = start(stage.url, trusting(pki))
        for _ in range(5):
            assert ask(gateway, path)[2] == b"ok"


@pytest.mark.parametrize(
    ("hosts", "trusted", "reason"),
    [
        (("127.0.0.1",), False, "certificate"),
        (("other.example",), True, "certificate"),
        (("127.0.0.2", "localhost"), True, "certificate"),
    ],
    ids=["unknown CA", "another name", "another address"],
)
def test_an_upstream_that_is_not_trusted_gets_no_request_and_the_device_a_502(
    start: Start,
    pki: ServerPki,
    tmp_path: Path,
    path: str,
    hosts: tuple[str, ...],
    trusted: bool,
    reason: str,
) -> None:
    theirs = make_server_pki(tmp_path / "theirs", hosts)
    with running_stage(theirs.server_context()) as stage:
        gateway = start(stage.url, trusting(theirs if trusted else pki))
        status, _, body = ask(gateway, path)
        assert status == 502
        assert b'"request_id":"' in body
        assert stage.received == []
        gateway.wait_for_log(f"(?i){reason}")
        careless = start(stage.url, {"UpstreamServer": {"InsecureSkipVerify": True}})
        assert ask(careless, path)[2] == b"ok"
        assert "InsecureSkipVerify" in careless.log
        assert "level=warning" in careless.log


def test_a_plain_upstream_behind_an_https_url_is_a_502(start: Start, path: str) -> None:
    def plain(peer: Peer) -> None:
        assert peer.read_some()
        peer.send(telling(b"plain HTTP", status=b"400 Bad Request"))

    with scripted_server(plain) as upstream:
        gateway = start(upstream.url.replace("http:", "https:"))
        assert ask(gateway, path)[0] == 502


def test_a_name_that_does_not_resolve_is_a_502_in_time(start: Start, path: str) -> None:
    gateway = start("http://no-such-host.invalid:8080")
    for _ in range(3):
        assert ask(gateway, path)[0] == 502


def test_an_upstream_with_two_addresses_is_reached_by_the_one_that_answers(
    start: Start, stage: Stage, path: str
) -> None:
    """`localhost` is ::1 as well where there is IPv6, and the stage listens on 127.0.0.1 alone."""
    gateway = start(f"http://localhost:{stage.server.port}")
    for _ in range(3):
        assert ask(gateway, path)[2] == b"ok"
    assert stage.of(path)[0].values(b"Host") == [f"localhost:{stage.server.port}".encode()]
