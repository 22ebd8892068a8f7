"""Start, reload and end of the process, as a service manager sees them."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.gateway import GatewayProcess, start_gateway
from tests.support.messages import asking, telling
from tests.support.pki import ServerPki, make_server_pki
from tests.support.scripted import Peer, connect
from tests.support.served import METRICS, Start, plain, with_https
from tests.support.stage import Leave, Received, Stage, eventually

PROMPTLY = 5.0
"""Seconds; the grace period, by comparison, is thirty."""


def ended(gateway: GatewayProcess, number: int = signal.SIGTERM) -> float:
    """Seconds from the signal to the end, which must be with status 0."""
    began = time.monotonic()
    assert gateway.stop(number) == 0
    return time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_closes_what_is_idle_and_ends_with_status_0(
    start: Start, stage: Stage, pki: ServerPki, number: int
) -> None:
    gateway = start(stage.url, with_https(pki), METRICS)
    context = pki.client_context()
    fresh = [connect(gateway.ports["http"]), connect(gateway.ports["https"], context)]
    used = [connect(gateway.ports["http"]), connect(gateway.ports["https"], context)]
    silent = connect(gateway.ports["https"])  # without so much as a handshake
    half = connect(gateway.ports["http"])
    half.send(b"GET / HT")
    for peer in used:
        peer.send(asking("/x"))
        assert peer.answer()[2] == b"ok"
    assert ended(gateway, number) < PROMPTLY
    for peer in (*fresh, *used):
        assert peer.read_to_end() == (b"", True)
    for peer in (silent, half):
        peer.read_to_end()
    for peer in (*fresh, *used, silent, half):
        peer.close()
    assert "msg=stopped" in gateway.log


@pytest.mark.parametrize("begun", [False, True], ids=["head not out", "head out"])
def test_what_is_being_answered_at_a_signal_is_finished(
    start: Start, stage: Stage, path: str, begun: bool
) -> None:
    go_on = threading.Event()

    def part(peer: Peer, request: Received) -> None:
        data = telling(b"finished")
        if begun:
            peer.send(data[:-4])
            data = data[-4:]
        assert go_on.wait(20)
        peer.send(data)

    stage.on(path, part)
    gateway = start(stage.url)
    with connect(gateway.ports["http"]) as peer, ThreadPoolExecutor(1) as pool:
        peer.send(asking(path))
        if begun:
            assert peer.read_until(b"\r\n\r\nfini")
        eventually(lambda: bool(stage.of(path)))
        stopping = pool.submit(ended, gateway)
        gateway.wait_for_log("msg=stopping")
        eventually(lambda: refuses(gateway.ports["http"]))
        go_on.set()
        if begun:
            assert peer.read_to_end() == (b"shed", True)
        else:
            status, head, body = peer.answer()
            assert (status, body) == (200, b"finished")
            assert peer.read_to_end() == (b"", True)
            del head
        assert stopping.result(20) < PROMPTLY


def refuses(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_an_upload_under_way_at_a_signal_is_finished(start: Start, stage: Stage, path: str) -> None:
    gateway = start(stage.url)
    with connect(gateway.ports["http"]) as peer, ThreadPoolExecutor(1) as pool:
        peer.send(asking(path, b"Content-Length: 10", method=b"PUT") + b"first")
        eventually(lambda: bool(stage.of(path)))
        stopping = pool.submit(ended, gateway)
        gateway.wait_for_log("msg=stopping")
        peer.send(b"later")
        assert peer.answer()[2] == b"ok"
        assert stopping.result(20) < PROMPTLY
    assert stage.one(path).body == b"firstlater"


def test_what_does_not_end_within_the_grace_period_is_cut_off(
    start: Start, stage: Stage, path: str
) -> None:
    def part(peer: Peer, request: Received) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun")
        peer.read_to_end()
        raise Leave

    stage.on(path, part)
    gateway = start(stage.url, {"Limits": {"ShutdownGrace": "1s"}})
    with connect(gateway.ports["http"]) as peer:
        peer.send(asking(path))
        assert peer.read_until(b"begun")
        assert 1.0 <= ended(gateway) < PROMPTLY
        assert not peer.read_to_end()[1]
    assert 'msg="requests were cut off at shutdown" count=1' in gateway.log


def test_any_number_of_signals_ends_with_status_0(start: Start, stage: Stage, path: str) -> None:
    def part(peer: Peer, request: Received) -> None:
        peer.read_to_end()  # never answers
        raise Leave

    stage.on(path, part)
    gateway = start(stage.url, {"Limits": {"ShutdownGrace": "1s"}})
    with connect(gateway.ports["http"]) as peer:
        peer.send(asking(path))
        eventually(lambda: bool(stage.of(path)))
        while gateway.process.poll() is None:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                gateway.process.send_signal(number)
            time.sleep(0.002)
    assert gateway.process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("after", [0.02, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4])
def test_an_interrupt_during_the_start_ends_with_status_0(
    tmp_path: Path, pki: ServerPki, number: int, after: float
) -> None:
    config = plain("http://127.0.0.1:9", with_https(pki), METRICS)
    # Measuring coverage catches SIGTERM long before `main` does.
    unmeasured = {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}
    gateway = start_gateway(tmp_path, config, environment=unmeasured, wait=False)
    executing = Path(f"/proc/{gateway.process.pid}/cmdline")
    eventually(lambda: b"mender_gateway" in executing.read_bytes())
    ready = time.monotonic() + after
    eventually(lambda: handles(gateway.process.pid, signal.SIGTERM))  # the other is next
    time.sleep(max(0.0, ready - time.monotonic()))  # spread over the phases of the start
    assert ended(gateway, number) < PROMPTLY


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal: before that, nobody could."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def test_sighup_brings_the_new_certificate_and_old_connections_live_on(
    start: Start, stage: Stage, tmp_path: Path
) -> None:
    old, new = make_server_pki(tmp_path / "old"), make_server_pki(tmp_path / "new")
    used = ServerPki(old.ca, tmp_path / "used.crt", tmp_path / "used.key")
    shutil.copy(old.certificate, used.certificate)
    shutil.copy(old.key, used.key)
    gateway = start(stage.url, with_https(used))
    port = gateway.ports["https"]
    with connect(port, old.client_context()) as before:
        shutil.copy(new.key, used.key)  # half a change: key and certificate do not match
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_for_log("level=error msg=.*(reload|certificate)")
        with connect(port, old.client_context()) as still:
            still.send(asking("/still"))
            assert still.answer()[2] == b"ok"
        shutil.copy(new.certificate, used.certificate)
        gateway.process.send_signal(signal.SIGHUP)
        eventually(lambda: accepts(port, new.client_context()))
        assert not accepts(port, old.client_context())
        before.send(asking("/before"))
        assert before.answer()[2] == b"ok"


def accepts(port: int, context: ssl.SSLContext) -> bool:
    try:
        connect(port, context).close()
    except ssl.SSLCertVerificationError:
        return False
    return True


def test_a_port_in_use_is_one_clear_line_and_status_1(tmp_path: Path, pki: ServerPki) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = plain("http://127.0.0.1:9", with_https(pki), {"HTTPS": {"Listen": address}})
        gateway = start_gateway(tmp_path, config, wait=False)
        assert gateway.process.wait(20) == 1
    assert f'level=fatal msg="HTTPS.Listen {address}: Address already in use' in gateway.log
    assert "msg=listening" not in gateway.log
    assert "Traceback" not in gateway.log


def test_metrics_that_cannot_bind_leave_the_devices_served(start: Start, stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        folder_config = {"Metrics": {"Enabled": True, "Listen": address}}
        gateway = start_without_metrics(start, stage, folder_config)
        with connect(gateway.ports["http"]) as peer:
            peer.send(asking("/x"))
            assert peer.answer()[2] == b"ok"
        gateway.wait_for_log('level=error msg="metrics are not served"')


def start_without_metrics(
    start: Start, stage: Stage, config: dict[str, dict[str, object]]
) -> GatewayProcess:
    """Tell the start not to wait for the metrics listener: by the environment."""
    listen = str(config["Metrics"]["Listen"])
    return start(stage.url, environment={"METRICS_ENABLED": "true", "METRICS_LISTEN": listen})


def test_a_full_stderr_does_not_hold_the_data_plane(
    tmp_path: Path, stage: Stage, path: str
) -> None:
    reading, writing = os.pipe()
    config = tmp_path / "gateway.conf"
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    config.write_text(json.dumps(plain(stage.url, {"HTTP": {"Listen": f"127.0.0.1:{port}"}})))
    process = subprocess.Popen(
        [sys.executable, "-m", "mender_gateway", "--config", str(config)], stderr=writing
    )
    os.close(writing)
    try:
        eventually(lambda: b"msg=listening" in os.read(reading, 65536), 30)
        with connect(port) as peer:  # 64 KiB of pipe, then the queue, are full long before the end
            for _ in range(100):
                peer.send(asking(path + "/" + "x" * 30) * 80)
                for _ in range(80):
                    assert peer.answer()[2] == b"ok"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reading)
