"""The gateway as the demo runs it: its own process, started by its own command line.

The demo writes a configuration file, starts `python -m mender_gateway --config FILE`, learns from
its log where it listens, and ends it by SIGTERM. Nothing is shared but sockets and that file.
"""

import asyncio
import json
import os
import re
import socket
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

START_DEADLINE = 30.0
STOP_DEADLINE = 20.0
_FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')
_OVERRIDES = ("HTTP_", "HTTPS_", "UPSTREAM_", "ARTIFACTS_", "MTLS_", "DEVICE_", "METRICS_")
"""Environment variables that would configure the gateway past the file."""


class GatewayFailed(Exception):
    """The gateway did not start or ended by itself; the text has the end of its log."""


def free_port() -> int:
    """A loopback port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class GatewayProcess:
    """An asynchronous context manager: inside, the gateway listens."""

    def __init__(
        self, directory: Path, configuration: Mapping[str, Any], log_level: str = "info"
    ) -> None:
        self._directory = directory
        self._configuration = configuration
        self._log_level = log_level
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self.addresses: dict[str, str] = {}
        """Listener (http, https, metrics) to host:port."""
        self.log: deque[str] = deque(maxlen=1000)
        """The latest lines of its log."""

    async def __aenter__(self) -> "GatewayProcess":
        wanted = {
            key.lower()
            for key in ("HTTP", "HTTPS", "Metrics")
            if self._configuration.get(key, {}).get("Enabled")
        }
        path = self._directory / "gateway.conf"
        path.touch(0o600)
        path.write_text(json.dumps(self._configuration, indent=2))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mender_gateway",
            "--config",
            str(path),
            "--log-level",
            self._log_level,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(),
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read_log(self._process))
        try:
            async with asyncio.timeout(START_DEADLINE):
                while not wanted <= self.addresses.keys():
                    await self._changed.wait()
                    self._changed.clear()
                    if self._reading.done():
                        raise GatewayFailed(self.ending("the gateway ended while starting"))
        except TimeoutError:
            await self._stop()
            text = f"the gateway did not listen within {START_DEADLINE:.0f} s"
            raise GatewayFailed(self.ending(text)) from None
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the gateway was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _stop(self) -> None:
        process, reading = self._process, self._reading
        if process is None or reading is None:
            return
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_DEADLINE):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        except asyncio.CancelledError:
            # Interrupted once more: no time for a polite end.
            process.kill()
            raise
        await reading

    async def _read_log(self, process: asyncio.subprocess.Process) -> None:
        stream = process.stderr
        if stream is None:
            return
        try:
            while line := await stream.readline():
                self._note(line.decode(errors="replace").rstrip("\n"))
        except ValueError as error:
            self.log.append(f"(a line of the log is too long: {error})")
            while await stream.read(1 << 16):
                pass
        finally:
            self._changed.set()

    def _note(self, line: str) -> None:
        self.log.append(line)
        fields = {name: value.strip('"') for name, value in _FIELD.findall(line)}
        if fields.get("msg") == "listening" and "listener" in fields:
            self.addresses[fields["listener"]] = fields.get("address", "")
            self._changed.set()

    def ending(self, what: str) -> str:
        """`what`, and the end of the log."""
        return "\n".join([f"{what}; the end of its log:", *list(self.log)[-20:]])


def _environment() -> dict[str, str]:
    """Ours, less what would change the gateway's configuration or send it through a proxy."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OVERRIDES) and not name.lower().endswith("_proxy")
    }
