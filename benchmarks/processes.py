"""Servers under test as processes: started, watched by their CPU time and memory, ended by PID.

CPU time is user and system time of the process, all its threads and all its descendants: of the
living by their process clocks (nanoseconds, where /proc/PID/stat counts in hundredths of a second),
of those that ended by what their parents waited for (/proc/PID/stat).
"""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

START_DEADLINE = 30.0
STOP_DEADLINE = 15.0
_ORPHANS = 2.0
"""Seconds that descendants may outlive the process."""
_BORN = 19
"""Place of `starttime` in what `_stat` returns: with the PID it names a process for good."""
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_FIRST_PORT = 12_000


class ServerFailed(Exception):
    """A server did not start, or ended by itself; the text has the end of its log."""


@dataclass(slots=True)
class Server:
    """One server under test. `ports` by name: `http`, `https`."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    ports: Mapping[str, int] = field(default_factory=dict)

    def url(self, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.ports[scheme]}"

    def pids(self) -> list[int]:
        """The process and its descendants."""
        return tree(self.process.pid)

    def cpu(self) -> float:
        """Seconds of CPU time so far. Raises ServerFailed when the server has ended."""
        if self.process.poll() is not None:
            raise ServerFailed(f"{self.name} ended by itself:\n{self.ending()}")
        return sum(cpu_of(pid) for pid in self.pids())

    def resident(self) -> int:
        """Bytes of resident memory; shared pages count once for each process."""
        total = 0
        for pid in self.pids():
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
            except (FileNotFoundError, ProcessLookupError):
                continue
        return total

    def ending(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """Ends it, politely first; returns when no process of it is left."""
        pids = self.pids()
        born = {pid: fields[_BORN] for pid in pids if (fields := _stat(pid)) is not None}
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        orphaned = time.monotonic() + _ORPHANS
        while left := [pid for pid, since in born.items() if _lives(pid, since)]:
            if time.monotonic() > orphaned:
                _kill(left)
            time.sleep(0.005)


def _lives(pid: int, since: str) -> bool:
    """Whether that very process is still there, and no zombie."""
    fields = _stat(pid)
    return fields is not None and fields[_BORN] == since and fields[0] != "Z"


def _kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def tree(root: int) -> list[int]:
    """`root` and every living descendant of it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_of(pid: int) -> float:
    """Seconds used by a process, its threads, and those of its children that have ended."""
    fields = _stat(pid)
    if fields is None:
        return 0.0
    ended = (int(fields[13]) + int(fields[14])) / _TICK
    try:
        # The clock of another process: the complement of its PID over CPUCLOCK_SCHED, as
        # clock_getcpuclockid(3) makes it, which Python does not have.
        return time.clock_gettime((~pid << 3) | 2) + ended
    except OSError:
        return (int(fields[11]) + int(fields[12])) / _TICK + ended


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third one (state) on; None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    folder: Path,
    ports: Mapping[str, int],
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A server from its start, when all of its ports accept, to its end."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={**_environment(), **(environment or {})},
        )
    server = Server(name, process, log, ports)
    try:
        for port in ports.values():
            wait_for_port(server, port)
        yield server
    finally:
        server.stop()


def wait_for_port(server: Server, port: int) -> None:
    """Blocks until the port accepts; raises ServerFailed."""
    deadline = time.monotonic() + START_DEADLINE
    while True:
        if server.process.poll() is not None:
            raise ServerFailed(f"{server.name} did not start:\n{server.ending()}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise ServerFailed(f"{server.name} does not listen:\n{server.ending()}") from None
            time.sleep(0.002)


def _environment() -> dict[str, str]:
    """Ours, less what would send a server through an outbound proxy or change its settings."""
    ours = ("HTTP_", "HTTPS_", "UPSTREAM_", "ARTIFACTS_", "MTLS_", "DEVICE_", "METRICS_", "GOMAX")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ours) and not name.lower().endswith("_proxy")
    }


def free_port() -> int:
    """A free loopback port outside the range of outgoing connections, so that it stays free."""
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    end = max(int(text.split()[0]), _FIRST_PORT + 1000)
    chosen = random.SystemRandom()
    while True:
        port = chosen.randrange(_FIRST_PORT, end)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
