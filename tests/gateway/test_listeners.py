"""The plain and the TLS listener as all kinds of clients find them."""

import socket
import ssl
import subprocess
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.messages import asking
from tests.support.pki import ServerPki
from tests.support.scripted import Peer, connect
from tests.support.served import Start, with_https
from tests.support.stage import Stage

VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}


def speaking(pki: ServerPki, version: str) -> ssl.SSLContext:
    """A client of that TLS version alone, as lenient as OpenSSL lets it be."""
    context = pki.client_context()
    if version in ("1.0", "1.1"):
        context.set_ciphers("ALL@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


def answers(gateway: GatewayProcess, context: ssl.SSLContext | None, listener: str) -> bool:
    try:
        with connect(gateway.ports[listener], context) as peer:
            peer.send(asking("/x"))
            return peer.answer()[2] == b"ok"
    except OSError:
        return False


def test_both_listeners_serve_at_once(
    stage: Stage, gateway: GatewayProcess, pki: ServerPki
) -> None:
    def ask(number: int) -> bool:
        listener = ("http", "https")[number % 2]
        return answers(gateway, pki.client_context() if number % 2 else None, listener)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(40)))


@pytest.mark.parametrize("minimum", ["1.0", "1.1", "1.2", "1.3"])
def test_tls_versions_from_the_configured_minimum_on_are_spoken(
    start: Start, stage: Stage, pki: ServerPki, minimum: str
) -> None:
    gateway = start(stage.url, with_https(pki), {"HTTPS": {"MinimumTLSVersion": minimum}})
    spoken = [version for version in VERSIONS if answers(gateway, speaking(pki, version), "https")]
    assert spoken == [version for version in VERSIONS if version >= minimum]
    if minimum < "1.2":
        assert "level=warning" in gateway.log
        assert "MinimumTLSVersion" in gateway.log


def test_the_default_minimum_is_tls_1_2(gateway: GatewayProcess, pki: ServerPki) -> None:
    spoken = [version for version in VERSIONS if answers(gateway, speaking(pki, version), "https")]
    assert spoken == ["1.2", "1.3"]


@pytest.mark.parametrize("name", ["127.0.0.1", "::1", "gateway.example", "x" * 200])
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_any_server_name_is_tolerated_an_address_too(
    stage: Stage, gateway: GatewayProcess, pki: ServerPki, name: str, version: str
) -> None:
    """Real devices send SNI for an address although RFC 6066 forbids it; OpenSSL's tool can."""
    port = gateway.ports["https"]
    done = subprocess.run(
        f"openssl s_client -connect 127.0.0.1:{port} -servername {name} {version} "
        f"-CAfile {pki.ca} -verify_return_error -quiet".split(),
        input=asking("/x", b"Connection: close"),
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.stdout.startswith(b"HTTP/1.1 200 OK\r\n"), done


@pytest.mark.parametrize("protocols", [[], ["http/1.1"], ["h2", "http/1.1"], ["h2"], ["x"]])
def test_alpn_is_neither_needed_nor_in_the_way(
    stage: Stage, gateway: GatewayProcess, pki: ServerPki, protocols: list[str]
) -> None:
    context = pki.client_context()
    if protocols:
        context.set_alpn_protocols(protocols)
    with connect(gateway.ports["https"], context) as peer:
        peer.send(asking("/x"))
        assert peer.answer()[2] == b"ok"
        assert isinstance(peer.sock, ssl.SSLSocket)
        assert peer.sock.selected_alpn_protocol() in (None, "http/1.1")


def test_a_session_may_be_resumed(stage: Stage, gateway: GatewayProcess, pki: ServerPki) -> None:
    context = speaking(pki, "1.2")
    port = gateway.ports["https"]
    with connect(port, context) as first:
        assert isinstance(first.sock, ssl.SSLSocket)
        session = first.sock.session
    sock = socket.create_connection(("127.0.0.1", port), 20)
    with context.wrap_socket(sock, server_hostname="127.0.0.1", session=session) as second:
        peer = Peer(second)
        peer.send(asking("/x"))
        assert peer.answer()[2] == b"ok"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n",
        b"\x16\x03\x01" + b"\xff" * 5000,
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        b"\x80\x2e\x01\x00\x02",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        bytes(range(256)) * 100,
    ],
    ids=["nothing", "NUL", "plain HTTP", "noise", "short hello", "SSL 2", "SSH", "bytes"],
)
def test_garbage_on_the_tls_port_is_ended_and_harms_nobody(
    stage: Stage, gateway: GatewayProcess, pki: ServerPki, data: bytes
) -> None:
    with connect(gateway.ports["https"]) as peer:
        try:
            peer.send(data)
            peer.finish()
            peer.read_to_end()
        except OSError:
            pass
    assert answers(gateway, pki.client_context(), "https")
    assert "level=error" not in gateway.log


def test_a_client_that_refuses_the_certificate_is_a_line_in_the_log_and_no_more(
    stage: Stage, gateway: GatewayProcess, pki: ServerPki
) -> None:
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for _ in range(5):
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(gateway.ports["https"], stranger)
    gateway.wait_for_log('level=warning msg="TLS client refused" peer=127.0.0.1 reason=')
    assert answers(gateway, pki.client_context(), "https")


def test_many_handshakes_at_once(stage: Stage, gateway: GatewayProcess, pki: ServerPki) -> None:
    with ThreadPoolExecutor(16) as pool:
        results = pool.map(lambda _: answers(gateway, pki.client_context(), "https"), range(64))
    assert all(results)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", ""])
def test_every_form_of_listen_address_is_served(start: Start, stage: Stage, host: str) -> None:
    if "::1" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    gateway = start(stage.url, {"HTTP": {"Listen": f"{host}:0"}})
    port = gateway.ports["http"]
    reached = {address for address in ("127.0.0.1", "::1") if reaches(address, port)}
    match host:
        case "127.0.0.1":
            assert reached == {"127.0.0.1"}
        case "[::1]":
            assert reached == {"::1"}
        case "localhost":
            assert reached
        case _:
            assert reached == ({"127.0.0.1", "::1"} if has_ipv6() else {"127.0.0.1"})


def test_a_device_on_ipv6_is_named_with_its_address(start: Start, stage: Stage, path: str) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    gateway = start(stage.url, {"HTTP": {"Listen": ":0"}})
    for address in ("::1", "127.0.0.1"):
        with socket.create_connection((address, gateway.ports["http"]), 20) as sock:
            peer = Peer(sock)
            peer.send(asking(path))
            assert peer.answer()[0] == 200
    six, four = stage.of(path)
    assert six.values(b"X-Forwarded-For") == [b"::1"]
    assert six.values(b"Forwarded")[0].startswith(b'for="[::1]";')
    assert four.values(b"X-Forwarded-For") == [b"127.0.0.1"]


def test_a_trusted_proxy_is_believed_and_a_device_is_not(
    start: Start, stage: Stage, path: str
) -> None:
    fields = (b"X-Forwarded-For: 10.0.0.7", b"X-Forwarded-Proto: https", b"Forwarded: for=10.0.0.7")
    for trusted, expected in (["127.0.0.0/8"], b"10.0.0.7, 127.0.0.1"), ([], b"127.0.0.1"):
        gateway = start(stage.url, {"TrustedProxies": trusted})
        with connect(gateway.ports["http"]) as peer:
            peer.send(asking(path, b"X-Forwarded-Host: evil.example", *fields))
            peer.answer()
        request = stage.of(path)[-1]
        assert request.values(b"X-Forwarded-For") == [expected]
        assert request.values(b"X-Forwarded-Proto") == [b"https" if trusted else b"http"]
        assert request.values(b"Forwarded")[0].startswith(
            b"for=10.0.0.7, for=127" if trusted else b"for=127"
        )
        assert b"evil.example" not in request.head


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def reaches(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), 5) as sock:
            peer = Peer(sock)
            peer.send(asking("/x"))
            return peer.answer()[2] == b"ok"
    except OSError:
        return False
