"""Debian's real mender-client as a test device, without systemd and without touching the host.

The client reads fixed places (/etc/mender, its data directory, /usr/share/mender), so each device
lives in a mount namespace of its own in which these are folders of the test. Identity, inventory
and update module are scripts below. `reboot` is shadowed by a script that kills the client which
called it: `start` is then the next boot. mender-connect finds the client on a private D-Bus.

A device dies with the test process, even when that is killed; therefore it must be started from
the main thread (the kernel's parent-death signal follows the thread).
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

_TOOLS = ("mender", "mender-artifact", "mender-connect", "dbus-daemon", "unshare", "setpriv")
_PACKAGES = "mender-client mender-artifact mender-connect dbus"
_STOP = 10.0
"""Seconds from SIGTERM to SIGKILL."""

MODULE = "test-image"
"""The payload type that a device installs; see device_files/update-module."""

_FILES = Path(__file__).parent / "device_files"
_PLACES = {
    "identity": ("share/identity/mender-device-identity",),
    "inventory": ("share/inventory/mender-inventory-test",),
    "update-module": (f"share/modules/v3/{MODULE}", "share/modules/v3/mender-configure"),
    "reboot": ("bin/reboot",),
}

# Runs a command where /etc/mender, the data directory and /usr/share/mender are the device's own.
# $1: the device's folder, $2: where the data directory really is; the rest is the command.
_ENTER = """
mount --bind "$1/etc" /etc/mender && mount --bind "$1/data" "$2" &&
mount --bind "$1/share" /usr/share/mender && shift 2 && exec "$@"
"""


def unavailable() -> str | None:
    """Why no real device can run on this machine, or None when one can."""
    if os.geteuid() != 0:
        return "the real mender-client in a mount namespace needs root"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found: apt-get install {_PACKAGES}"
    tried = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "true"], capture_output=True, check=False
    )
    if tried.returncode:
        return f"no mount namespaces here: {tried.stderr.decode().strip()}"
    return None


@dataclass
class Device:
    """One device; a context manager that ends all its processes.

    Times in seconds. The real client's poll interval is what makes a test slow.
    """

    name: str
    folder: Path
    server_url: str
    device_type: str = "test-board"
    ca: Path | None = None
    """A private CA to trust besides the system's."""
    poll: int = 3
    retry: int = 5
    """RetryPollIntervalSeconds; resuming a download waits whole minutes whatever this says."""
    artifact_name: str = "release-0"
    """What is installed at first."""
    terminal: bool = False
    """Have a D-Bus, so that `connect` works."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further members of mender.conf."""

    def __post_init__(self) -> None:
        self.mac = _mac(self.name)
        self.identity = {"mac": self.mac}
        self._client: subprocess.Popen[bytes] | None = None
        self._connect: subprocess.Popen[bytes] | None = None
        self._bus: subprocess.Popen[bytes] | None = None
        self._bus_address = ""
        self._data_at = Path(os.path.realpath("/var/lib/mender"))
        self._prepare()

    def __enter__(self) -> "Device":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # Orders, and what came of them.

    @property
    def log(self) -> str:
        """The client's log since the first start."""
        return _text(self.folder / "log")

    @property
    def connect_log(self) -> str:
        return _text(self.folder / "connect.log")

    def fail_in(self, state: str) -> None:
        """The update module fails in this state (ArtifactInstall, ArtifactCommit, …)."""
        (self._data / "fail-in").write_text(state)

    def reboot_when_asked(self) -> None:
        """Updates want a reboot, which the client itself carries out."""
        (self._data / "reboot").write_text("Automatic\n")

    def add_inventory_script(self, path: Path) -> None:
        """A further script whose `name=value` lines the client reports."""
        shutil.copy(path, self.folder / "share/inventory" / path.name)

    @property
    def installed(self) -> dict[str, str]:
        """SHA-256 of each payload file that was installed."""
        folder = self._data / "installed"
        return {file.name: file.read_text().strip() for file in sorted(folder.glob("*"))}

    @property
    def meta_data(self) -> Any:
        """The meta-data of the payload installed last; None without."""
        text = _text(self._data / "meta-data")
        return json.loads(text) if text else None

    @property
    def states(self) -> list[str]:
        """The update module's states in the order they were called."""
        return _text(self._data / "states").split()

    def artifact(self) -> str:
        """The artifact name that the client shows; blocks for its one-shot command."""
        command = ["mender", "--no-syslog", "show-artifact"]
        done = subprocess.run(
            self._inside(command), capture_output=True, timeout=30, check=True, env=self._env
        )
        return done.stdout.decode().strip()

    # Life.

    def start(self) -> None:
        """Starts the client's daemon; returns at once."""
        if self.terminal and self._bus is None:
            self._start_bus()
        self._client = self._spawn(["mender", "--no-syslog", "daemon"], "log")

    def connect(self) -> None:
        """Starts mender-connect, which offers a remote shell as user nobody."""
        settings = {
            "ShellCommand": "/bin/bash",
            "ShellArguments": ["--norc"],
            "User": "nobody",
            "Sessions": {"MaxPerUser": 10},
        }
        (self.folder / "etc/mender-connect.conf").write_text(json.dumps(settings))
        self._connect = self._spawn(["mender-connect", "daemon"], "connect.log")

    def wait_for_reboot(self, timeout: float) -> None:
        """Blocks until the client asked for the reboot and is gone; `start` boots again."""
        if self._client is None:
            raise RuntimeError(f"{self.name} was not started")
        self._client.wait(timeout)
        if "reboot: the client ends here" not in self.log:
            raise RuntimeError(f"{self.name} ended without a reboot:\n{self.log[-2000:]}")

    def wait_for_log(self, text: str, timeout: float) -> None:
        """Blocks until the client's log contains `text`."""
        self.wait_until(lambda: text in self.log, f"{text!r} in its log", timeout)

    def wait_until(self, predicate: Callable[[], object], what: str, timeout: float) -> None:
        """Blocks until `predicate()`, polled; AssertionError with the log's end after `timeout`."""
        deadline = time.monotonic() + timeout
        while not predicate():
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: no {what} in {timeout} s:\n{self.log[-4000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Ends the client as a power cut would."""
        _end(self._client, signal.SIGKILL)
        self._client = None

    def stop(self) -> None:
        """Ends everything that was started, politely first."""
        _end(self._connect, signal.SIGTERM)
        _end(self._client, signal.SIGTERM)
        _end(self._bus, signal.SIGTERM)
        self._connect = self._client = self._bus = None

    # How it is made.

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _prepare(self) -> None:
        self._data_at.mkdir(parents=True, exist_ok=True)
        for name in ("etc", "data", "bin", "share/identity", "share/inventory", "share/modules/v3"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for file, places in _PLACES.items():
            for place in places:
                shutil.copy(_FILES / file, self.folder / place)
        (self.folder / "etc/artifact_info").write_text(f"artifact_name={self.artifact_name}\n")
        (self._data / "device_type").write_text(f"device_type={self.device_type}\n")
        config: dict[str, Any] = {
            "ServerURL": self.server_url,
            "UpdatePollIntervalSeconds": self.poll,
            "InventoryPollIntervalSeconds": 2 * self.poll,
            "RetryPollIntervalSeconds": self.retry,
            "DBus": {"Enabled": self.terminal},
        }
        if self.ca is not None:
            config["ServerCertificate"] = str(self.ca)
        (self.folder / "etc/mender.conf").write_text(json.dumps(config | dict(self.extra)))

    def _start_bus(self) -> None:
        config = _FILES / "bus.conf"
        self._bus = subprocess.Popen(
            _mortal(["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address=1"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._bus.stdout is not None
        with self._bus.stdout as printed:
            self._bus_address = printed.readline().decode().strip()
        if not self._bus_address:
            raise RuntimeError("dbus-daemon did not start")

    @property
    def _env(self) -> dict[str, str]:
        kept = {n: v for n, v in os.environ.items() if not n.lower().endswith("_proxy")}
        return kept | {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "DEVICE_FOLDER": str(self.folder),
            "DEVICE_NAME": self.name,
            "DEVICE_MAC": self.mac,
            "DBUS_SYSTEM_BUS_ADDRESS": self._bus_address,
            # The D-Bus part of Debian's client keeps a number where Go expects a pointer, and dies
            # of it about once in a hundred starts.
            "GODEBUG": "invalidptr=0",
        }

    def _inside(self, command: list[str]) -> list[str]:
        enter = ["unshare", "-m", "--propagation", "private", "sh", "-ec", _ENTER, "enter"]
        return _mortal([*enter, str(self.folder), str(self._data_at), *command])

    def _spawn(self, command: list[str], log_name: str) -> subprocess.Popen[bytes]:
        """Starts a command inside; exec all the way, so its PID is the command's own."""
        with (self.folder / log_name).open("ab") as log:
            return subprocess.Popen(
                self._inside(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                start_new_session=True,
            )


def _mortal(command: list[str]) -> list[str]:
    """The command, to be killed when the process that starts it is gone."""
    return ["setpriv", "--pdeathsig", "KILL", *command]


def _end(process: subprocess.Popen[bytes] | None, number: int) -> None:
    if process is None:
        return
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _mac(name: str) -> str:
    """A locally administered address that follows from the name."""
    digits = hashlib.sha256(name.encode()).hexdigest()[:10]
    return "02:" + ":".join(digits[at : at + 2] for at in range(0, 10, 2))


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def write_artifact(
    path: Path, name: str, device_type: str, payload: Path, module: str = MODULE
) -> None:
    """Builds an artifact with mender-artifact; the payload is not compressed."""
    command = [
        *("mender-artifact", "write", "module-image", "--compression", "none"),
        *("-T", module, "-n", name, "-t", device_type, "-f", str(payload), "-o", str(path)),
    ]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
