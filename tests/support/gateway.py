"""The gateway as a real process: its own command line, a configuration file, ephemeral ports."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LISTENING = re.compile(r'msg=listening listener=(\w+) address="?\S+?:(\d+)"?\s')
_START_DEADLINE = 30.0


@dataclass
class GatewayProcess:
    process: subprocess.Popen[bytes]
    log_file: Path
    ports: dict[str, int]
    """Listener name (http, https, metrics) to port."""

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def url(self, listener: str = "http") -> str:
        scheme = "https" if listener == "https" else "http"
        return f"{scheme}://127.0.0.1:{self.ports[listener]}"

    def stop(self, number: int = signal.SIGTERM, timeout: float = 40.0) -> int:
        """Signal the process and wait for its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)

    def wait_for_log(self, pattern: str, timeout: float = 15.0) -> re.Match[str]:
        """Wait until a log line matches; fails with the log otherwise."""
        deadline = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.log)
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"{pattern!r} is not in the log:\n{self.log[-4000:]}")
            time.sleep(0.02)

    def resident(self) -> int:
        """Resident memory in bytes."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def start_gateway(
    folder: Path,
    config: dict[str, Any],
    *args: str,
    environment: dict[str, str] | None = None,
    wait: bool = True,
) -> GatewayProcess:
    """Start a gateway with `config` (written to `folder`); its listeners are open on return."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"StateDir": str(folder / "state"), **config}
    path = folder / "gateway.conf"
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    log_file = folder / "gateway.log"
    clean = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    with log_file.open("ab") as log:
        begin = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "mender_gateway", "--config", str(path), *args],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**clean, **(environment or {})},
        )
    gateway = GatewayProcess(process, log_file, {})
    if wait:
        expected = sum(
            bool(config.get(name, {}).get("Enabled")) for name in ("HTTP", "HTTPS", "Metrics")
        )
        deadline = time.monotonic() + _START_DEADLINE
        while len(gateway.ports) < expected:
            text = log_file.read_bytes()[begin:].decode(errors="replace")
            gateway.ports = {name: int(port) for name, port in _LISTENING.findall(text)}
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise AssertionError(f"the gateway did not start:\n{text}")
            time.sleep(0.01)
    return gateway


@contextmanager
def running_gateway(
    folder: Path, config: dict[str, Any], *args: str, environment: dict[str, str] | None = None
) -> Iterator[GatewayProcess]:
    """`start_gateway`, ended on leaving; an internal error in its log fails the test."""
    gateway = start_gateway(folder, config, *args, environment=environment)
    try:
        yield gateway
    finally:
        try:
            status = gateway.stop()
        except subprocess.TimeoutExpired:
            gateway.process.kill()
            gateway.process.wait()
            raise
    assert "internal error" not in gateway.log, gateway.log[-4000:]
    assert status in (0, -signal.SIGKILL), (status, gateway.log[-4000:])
