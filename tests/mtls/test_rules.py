"""The settings of the gate: the escape hatch for expired devices, old TLS, anchors, resumption."""

import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mender_gateway.net import presented
from tests.mtls.gateways import ALIVE, REQUEST, ask, guarded, metric, refused
from tests.mtls.test_chains import signed_with_sha1
from tests.support.authority import Issued, authority, issue, new_key, revocation_list, shared_key
from tests.support.scripted import Peer, connect
from tests.support.stage import eventually

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def test_only_the_end_of_the_leaf_is_skipped(tmp_path: Path) -> None:
    root, expired_root = authority("Root"), authority("Expired Root", days=(-30, -1))
    expired = authority("Expired", root, days=(-30, -1))
    early = authority("Early", root, days=(1, 9))
    with guarded(tmp_path, [root, expired_root], InsecureSkipClientExpireAfter=True) as guard:
        guard.gateway.wait_for_log("EXPIRED device certificates are accepted")
        cases: dict[str, tuple[Issued, int | None]] = {
            "expired": (issue("expired", root, days=(-9, -1)), 200),
            "valid": (issue("valid", root), 200),
            "not yet": (issue("not yet", root, days=(1, 9)), None),
            "under expired": (issue("a", expired).with_chain(expired), None),
            "under early": (issue("b", early).with_chain(early), None),
            "expired root": (issue("c", expired_root), None),
            "other CA": (issue("d", authority("Other")), None),
        }
        for version in (TLS12, TLS13):
            found = {name: guard.ask(device, version) for name, (device, _) in cases.items()}
            assert found == {name: status for name, (_, status) in cases.items()}
        guard.gateway.wait_for_log("reason=not-yet-valid")
        guard.gateway.wait_for_log("reason=expired")


def test_a_renewed_root_counts_though_the_expired_one_is_listed_too(tmp_path: Path) -> None:
    key = new_key("p256")
    old = authority("Root", key=key, days=(-30, -1))
    new = authority("Root", key=key)
    device = issue("device", new, days=(-9, -1))
    with guarded(tmp_path, [old, new], InsecureSkipClientExpireAfter=True) as guard:
        assert guard.ask(device) == 200


def test_old_tls_does_not_bring_weak_chains(tmp_path: Path) -> None:
    """MinimumTLSVersion 1.0 lowers OpenSSL's security level; the chains are ours to check then."""
    root = authority("Root", kind="rsa2048")
    weak = authority("Weak", root, key=shared_key("rsa1024"))
    with guarded(tmp_path, [root], https={"MinimumTLSVersion": "1.0"}) as guard:
        for version in (ssl.TLSVersion.TLSv1, TLS12, TLS13):
            with_warning(lambda version=version: ask_all(guard, root, weak, version))
        guard.gateway.wait_for_log("reason=weak-key")
        guard.gateway.wait_for_log("reason=weak-digest")


def ask_all(guard: Any, root: Issued, weak: Issued, version: ssl.TLSVersion) -> None:
    assert guard.ask(issue("good", root, kind="rsa2048"), version) == 200
    assert guard.ask(issue("weak", root, kind="rsa1024"), version) is None
    assert guard.ask(issue("a", weak, kind="rsa2048").with_chain(weak), version) is None
    assert guard.ask(signed_with_sha1(root, ca=False), version) is None


def with_warning(run: Any) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TLS 1.0, by ssl
        run()


def test_an_intermediate_without_its_root_may_be_the_anchor(tmp_path: Path) -> None:
    root = authority("Root")
    trusted, other = authority("Trusted", root), authority("Other", root)
    with guarded(tmp_path, [trusted]) as guard:
        guard.gateway.wait_for_log("CN=Trusted is an intermediate without its root")
        assert guard.ask(issue("a", trusted)) == 200
        assert guard.ask(issue("b", trusted).with_chain(trusted, root)) == 200
        assert guard.ask(issue("c", other).with_chain(other, root)) is None


def test_the_list_of_a_root_reaches_an_intermediate_that_is_an_anchor_too(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    root, orphan = authority("Root"), authority("Orphan", authority("Elsewhere"))
    revoked = authority("Revoked", root)
    crl = tmp_path / "root.crl"
    crl.write_bytes(revocation_list(root, [revoked.serial]).public_bytes(Encoding.PEM))
    with guarded(tmp_path, [revoked, root, orphan], CRLPath=str(crl)) as guard:
        assert guard.ask(issue("a", revoked).with_chain(revoked)) is None
        assert guard.ask(issue("b", orphan).with_chain(orphan)) == 200


@pytest.mark.parametrize("version", [TLS12, TLS13], ids=["1.2", "1.3"])
def test_no_session_is_ever_resumed_and_no_client_fails_for_offering_one(
    version: ssl.TLSVersion, tmp_path: Path
) -> None:
    root = authority("Root")
    device = issue("device", root)
    with guarded(tmp_path, [root]) as guard:
        context = guard.context(device, version)
        port = guard.gateway.ports["https"]
        session: ssl.SSLSession | None = None
        open_ones: list[Peer] = []
        for _ in range(12):
            sock = socket.create_connection(("127.0.0.1", port), 20)
            secured = context.wrap_socket(sock, session=session)
            peer = Peer(secured)
            assert ask(peer) == 200
            assert not secured.session_reused
            session = secured.session or session
            open_ones.append(peer)  # kept: OpenSSL forgets sessions of broken connections
        assert version is TLS13 or session is not None
        for peer in open_ones:
            peer.close()


def test_the_plain_listener_serves_probes_alone(tmp_path: Path) -> None:
    with guarded(tmp_path, [authority("Root")]) as guard:
        peer = connect(guard.gateway.ports["http"])
        for request, status in ((ALIVE, 204), (REQUEST, 403), (ALIVE, 204)):
            peer.send(request)
            assert peer.answer()[0] == status
        peer.send(ALIVE.replace(b"alive", b"health"))
        assert peer.answer()[0] == 204
        peer.send(b"POST /api/devices/v1/authentication/auth_requests HTTP/1.1\r\n"
                  b"Host: x\r\nContent-Length: 2\r\n\r\n{}")  # fmt: skip
        assert peer.answer()[0] == 403
        peer.close()
        assert guard.upstream.accepted <= 1  # the health check


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x80\x2e\x01\x03\x01\x00\x15", b"\x16", b"", b"\x16\x03\x01"],
)
def test_what_is_not_tls_ends_at_once(data: bytes, tmp_path: Path) -> None:
    with guarded(tmp_path, [authority("Root")]) as guard:
        with socket.create_connection(("127.0.0.1", guard.gateway.ports["https"]), 20) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
        guard.gateway.wait_for_log('msg="TLS client refused" peer=127.0.0.1 reason=(protocol|gone)')


def test_a_client_that_never_finishes_its_handshake_is_let_go(tmp_path: Path) -> None:
    root = authority("Root")
    config = {"Limits": {"Handshake": "1s"}}
    with guarded(tmp_path, [root], other=config) as guard:
        with socket.create_connection(("127.0.0.1", guard.gateway.ports["https"]), 20) as sock:
            try:
                assert sock.recv(100) == b""
            except ConnectionError:
                pass
        guard.gateway.wait_for_log("reason=timeout")
        assert refused(guard, "timeout") == 1


def test_many_handshakes_leave_nothing_behind(tmp_path: Path) -> None:
    root = authority("Root")
    device, stranger = issue("device", root), issue("stranger", authority("Other"))
    with guarded(tmp_path, [root]) as guard:
        for version in (TLS12, TLS13):
            good, bad = guard.context(device, version), guard.context(stranger, version)
            for _ in range(100):
                peer = connect(guard.gateway.ports["https"], good)
                assert ask(peer) == 200
                peer.close()
                try:
                    refused = connect(guard.gateway.ports["https"], bad)
                except OSError:
                    continue
                refused.close()
        assert metric(guard, "mender_gateway_mtls_connections") == 0


def test_many_reloads_leave_nothing_behind(tmp_path: Path) -> None:
    root = authority("Root")
    device = issue("device", root)
    with guarded(tmp_path, [root]) as guard:
        process = guard.gateway.process
        descriptors = Path(f"/proc/{process.pid}/fd")

        def reload(times: int) -> int:
            for _ in range(times):
                said = guard.gateway.log.count("msg=reloaded")
                process.send_signal(signal.SIGHUP)
                eventually(lambda said=said: guard.gateway.log.count("msg=reloaded") > said)  # type: ignore[misc]
                assert guard.ask(device, TLS13) == 200
            return len(list(descriptors.iterdir()))

        before = reload(3)
        eventually(lambda: reload(1) <= before)
        assert reload(10) <= before + 1  # a connection may be at its end


PYENV = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
PYTHONS = {
    ".".join(path.parent.parent.name.split(".")[:2]): str(path)
    for path in sorted(PYENV.glob("3.1[1-9].*/bin/python3"))
}
"""Further interpreters of this machine, one of each version."""
PROBE = """
import socket, ssl, sys, threading
sys.path.insert(0, sys.argv[1])
from mender_gateway.net.presented import presented_chain, verified_chain, watch

def accept():
    sock, _ = listener.accept()
    server = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    try:
        server.do_handshake()
        found.append(("in", len(verified_chain(server)), len(presented_chain(server))))
        server.context = quiet
        server.presented = None
        server.sendall(b"x" * 100)
    except ssl.SSLError as error:
        found.append(("out", error.verify_code, len(presented_chain(server))))
    server.close()

def make():
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain("server.crt", "server.key")
    made.load_verify_locations("root.crt")
    made.verify_mode = ssl.CERT_REQUIRED
    return made

context, quiet, found = make(), make(), []
watch(context)
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    for name in ("good", "bad"):
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        client.maximum_version = version
        client.load_cert_chain(name + ".crt", name + ".key")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=accept)
            thread.start()
            try:
                with client.wrap_socket(socket.create_connection(listener.getsockname())) as sock:
                    while sock.recv(1000):
                        pass
            except OSError:
                pass
            thread.join()
print(found)
"""


@pytest.mark.parametrize("version", ["own", *PYTHONS])
def test_the_remedies_hold_on_every_python(version: str, tmp_path: Path) -> None:
    python = PYTHONS.get(version, sys.executable)
    root = authority("Root")
    intermediate = authority("Intermediate", root)
    issue("server", root).write(tmp_path, "server")
    root.write(tmp_path, "root")
    issue("device", intermediate).with_chain(intermediate).write(tmp_path, "good")
    issue("stranger", authority("Other")).write(tmp_path, "bad")
    source = Path(presented.__file__).parents[2]
    ran = subprocess.run(
        [python, "-c", PROBE, str(source)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.strip() == str([("in", 3, 2), ("out", 20, 1)] * 2), ran.stderr


def test_a_device_key_may_be_of_any_supported_curve(tmp_path: Path) -> None:
    root = authority("Root")
    with guarded(tmp_path, [root]) as guard:
        assert guard.ask(issue("p521", root, key=ec.generate_private_key(ec.SECP521R1()))) == 200
        assert guard.ask(issue("p224", root, key=ec.generate_private_key(ec.SECP224R1()))) is None
