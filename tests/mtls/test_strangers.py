"""What costs a stranger nothing must cost the gateway nothing; files are read once."""

import os
import resource
import shutil
import socket
import ssl
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mtls.gateways import REQUEST, ask, guarded, refused
from tests.support.authority import authority, issue, new_key
from tests.support.scripted import Peer

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
MEGABYTE = 1 << 20


def test_a_stranger_who_says_one_byte_takes_next_to_no_memory(tmp_path: Path) -> None:
    root = authority("Root")
    device = issue("device", root)
    with guarded(tmp_path, [root]) as guard, ExitStack() as stack:
        assert guard.ask(device) == 200
        before = guard.gateway.resident()
        for _ in range(800):
            sock = socket.create_connection(("127.0.0.1", guard.gateway.ports["https"]), 20)
            stack.callback(sock.close)
            sock.sendall(b"\x16")
        assert guard.ask(device) == 200
        assert guard.gateway.resident() - before < 20 * MEGABYTE


@pytest.mark.parametrize("version", [TLS12, TLS13], ids=["1.2", "1.3"])
@pytest.mark.parametrize("sizes", [[1] * 100, [10, 40], [44, 1, 50], [60]], ids=str)
def test_a_client_hello_may_come_in_pieces(
    sizes: list[int], version: ssl.TLSVersion, tmp_path: Path
) -> None:
    root = authority("Root")
    with guarded(tmp_path, [root]) as guard:
        context = guard.context(issue("device", root), version)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing)
        with socket.create_connection(("127.0.0.1", guard.gateway.ports["https"]), 20) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    data = outgoing.read()
                    for size in sizes:
                        sock.sendall(data[:size])
                        data = data[size:]
                    sock.sendall(data)
                    sizes = []
                    incoming.write(sock.recv(65536))
            client.write(REQUEST)
            sock.sendall(outgoing.read())
            answer = b""
            while b"hi" not in answer:
                incoming.write(sock.recv(65536))
                try:
                    answer += client.read(65536)
                except ssl.SSLWantReadError:
                    continue
            assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_stranger_who_stops_inside_the_client_hello_is_let_go(tmp_path: Path) -> None:
    limits = {"Limits": {"Handshake": "1s"}}
    with guarded(tmp_path, [authority("Root")], other=limits) as guard:
        with socket.create_connection(("127.0.0.1", guard.gateway.ports["https"]), 20) as sock:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
            try:
                assert sock.recv(100) == b""
            except ConnectionError:
                pass
        guard.gateway.wait_for_log("reason=timeout")
        assert refused(guard, "timeout") == 1


@pytest.mark.parametrize("version", [TLS12, TLS13], ids=["1.2", "1.3"])
def test_bad_files_hurt_no_device_not_even_the_first_one(
    version: ssl.TLSVersion, tmp_path: Path
) -> None:
    """A context that is made when a client needs it is made of what was read, not of the files."""
    root = authority("Root")
    device = issue("device", root)
    with guarded(tmp_path, [root]) as guard:
        for name in ("server.key", "server.crt"):
            path = tmp_path / "server" / name
            beside = path.with_name("beside")
            beside.write_bytes(issue("x", key=new_key("p256")).key_pem)
            os.replace(beside, path)
        guard.gateway.wait_for_log('msg="reload failed, ')
        context = guard.context(device, version)
        session: ssl.SSLSession | None = None
        for _ in range(3):  # TLS 1.2 offers a session from the second time on
            sock = socket.create_connection(("127.0.0.1", guard.gateway.ports["https"]), 20)
            secured = context.wrap_socket(sock, session=session)
            with Peer(secured) as peer:
                assert ask(peer) == 200
                session = secured.session


def test_a_blacklist_that_could_not_be_read_for_a_moment_is_read_later(tmp_path: Path) -> None:
    """Strangers may have taken all descriptors just then; the file does not change again."""
    root = authority("Root")
    device = issue("device", root)
    blacklist = tmp_path / "blacklist"
    blacklist.touch()
    with guarded(tmp_path, [root], BlacklistPath=str(blacklist)) as guard:
        assert guard.ask(device) == 200
        pid = guard.gateway.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, before[1]))
        blacklist.write_text(f"{device.serial:x}\n")
        guard.gateway.wait_for_log('msg="reload failed, .*Too many open files')
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        guard.gateway.wait_for_log("msg=reloaded", 30)
        assert guard.ask(device) is None
        assert guard.gateway.log.count("reload failed") == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_nobody_negotiates_a_connection_anew(tmp_path: Path) -> None:
    """In TLS 1.2 a client could show another certificate then, or keep us busy."""
    root = authority("Root")
    certificate, key = issue("device", root).write(tmp_path, "device")
    with guarded(tmp_path, [root]) as guard:
        address = f"127.0.0.1:{guard.gateway.ports['https']}"
        command = ["openssl", "s_client", "-tls1_2", "-connect", address, "-cert", certificate]
        ran = subprocess.run(
            [*command, "-key", key], input="R\n", capture_output=True, text=True, timeout=30
        )
        assert "RENEGOTIATING" in ran.stdout + ran.stderr
        assert "no renegotiation" in ran.stderr


def test_a_name_cannot_forge_lines_of_the_log(tmp_path: Path) -> None:
    name = 'x"\nlevel=error msg="forged" \x1b[31m\u2028'
    with guarded(tmp_path, [authority("Root")]) as guard:
        assert guard.ask(issue(name, authority(name))) is None
        line = guard.gateway.wait_for_log("reason=unknown-ca .*forged.*")[0]
        assert not [each for each in guard.gateway.log.splitlines() if each.startswith("level")]
        assert "\x1b" not in line
