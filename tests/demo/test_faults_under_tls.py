"""The same places hold under TLS, where a connection has two buffers to empty."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from mender_gateway.demo import faults
from mender_gateway.demo.blobs import GeneratedBlob
from mender_gateway.demo.cloud import Cloud, CloudSettings, running
from mender_gateway.demo.faults import Gate
from tests.support.pki import ServerPki, make_server_pki

CONTENT = GeneratedBlob(500_000).read(0, 500_000)


@pytest.fixture
def pki(tmp_path: Path) -> ServerPki:
    return make_server_pki(tmp_path)


@pytest.fixture
def cloud(pki: ServerPki) -> Iterator[Cloud]:
    with running(CloudSettings(storage_tls=pki.server_context())) as started:
        started.storage.put("object", CONTENT)
        yield started
        assert not started.storage.server.failures


def asked(cloud: Cloud, pki: ServerPki) -> ssl.SSLSocket:
    """A connection to the store on which the object was asked for; the head is read."""
    link = cloud.storage.link("object").removeprefix(cloud.storage.base)
    host, _, port = cloud.storage.authority.rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout=20)
    sock = pki.client_context().wrap_socket(plain, server_hostname=host)
    sock.sendall(f"GET {link} HTTP/1.1\r\nHost: {cloud.storage.authority}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    return sock


@pytest.mark.parametrize("after", [0, 1, 131_072, 499_999])
def test_a_cut_comes_after_exactly_so_many_bytes(cloud: Cloud, pki: ServerPki, after: int) -> None:
    cloud.storage.script("GET *", faults.cut(after))
    body = b""
    with asked(cloud, pki) as sock:
        while piece := sock.recv(1 << 16):
            body += piece
    assert body == CONTENT[:after]


def test_a_stall_lasts_until_the_gate_opens(cloud: Cloud, pki: ServerPki) -> None:
    gate = Gate()
    cloud.storage.script("GET *", faults.stalled(200_000, gate))
    body = b""
    with asked(cloud, pki) as sock:
        while len(body) < 200_000:
            body += sock.recv(1 << 16)
        gate.wait_reached(10)
        assert len(body) == 200_000
        gate.release()
        while len(body) < len(CONTENT):
            body += sock.recv(1 << 16)
    assert body == CONTENT
