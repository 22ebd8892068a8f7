"""The command line as service managers and people use it."""

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from mender_gateway import __version__
from mender_gateway.cli.main import main
from tests.cli.command import run as run_command
from tests.cli.command import running, wait_until_caught

LOGFMT = re.compile(r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ" level=fatal msg="(.*)"\n')
HEAVY = ("uvloop", "cryptography", "rich", "asyncio", "msgspec", "prometheus_client")


def serving(folder: Path) -> dict[str, str]:
    return {
        "HTTP_ENABLED": "true",
        "HTTP_LISTEN": "127.0.0.1:0",
        "UPSTREAM_SERVER_URL": "http://127.0.0.1:9",
        "STATE_DIR": str(folder),
    }


def test_the_version_is_printed() -> None:
    done = run_command("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"mender-gateway {__version__}\n", "")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_names_every_flag_and_command(flag: str) -> None:
    done = run_command(flag)
    assert done.returncode == 0
    for word in ("--config", "--log-level", "--log-format", "--version", "check-config", "demo"):
        assert word in done.stdout


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_version_and_help_import_nothing_heavy(flag: str) -> None:
    done = run_command(flag, python=("-X", "importtime"))
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mender_gateway.cli.main" in imported
    assert not imported.intersection(HEAVY)


@pytest.mark.parametrize(
    "arguments",
    [("--log-level", "loud"), ("--log-format", "xml"), ("--conf", "x"), ("serve",), ("--config",)],
)
def test_a_command_line_that_is_not_understood_is_refused(arguments: tuple[str, ...]) -> None:
    done = run_command(*arguments)
    assert done.returncode == 2
    assert "usage: mender-gateway" in done.stderr


def test_a_wrong_configuration_is_one_line_and_status_1() -> None:
    done = run_command(variables={"HTTP_ENABLED": "perhaps", "UPSTREAM_SERVER_URL": "https://u"})
    assert done.returncode == 1
    line = LOGFMT.fullmatch(done.stderr)
    assert line is not None, done.stderr
    assert line[1].startswith(r"HTTP.Enabled: \"perhaps\" (in HTTP_ENABLED) is no boolean")


def test_the_same_line_can_be_json() -> None:
    done = run_command("--log-format", "json", "--config", "/absent.conf")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    record = json.loads(line)
    assert record["level"] == "fatal"
    assert "/absent.conf" in record["msg"]


def test_a_certificate_that_is_absent_is_one_line_and_status_1(tmp_path: Path) -> None:
    variables = {
        **serving(tmp_path),
        "HTTPS_ENABLED": "true",
        "HTTPS_LISTEN": "127.0.0.1:0",
        "HTTPS_SERVER_CERTIFICATE": "/absent.crt",
        "HTTPS_SERVER_KEY": "/absent.key",
    }
    done = run_command("--log-level", "fatal", variables=variables)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "HTTPS.ServerCertificate: cannot read /absent.crt" in done.stderr


def test_what_a_warning_says_is_logged_at_start(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text('{"HTPS": {}, "HTTPS": {"Enabled": true}}')
    done = run_command("--config", str(path), variables=serving(tmp_path))
    assert done.returncode == 1
    assert "HTTPS.ServerCertificate: missing" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("delay", [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4])
def test_an_interrupt_at_any_time_ends_with_status_0(
    tmp_path: Path, number: signal.Signals, delay: float
) -> None:
    """The delay is no synchronisation: whatever has begun by then must end well."""
    # Measuring coverage catches SIGTERM long before `main` does.
    unmeasured = {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}
    with running(variables=serving(tmp_path) | unmeasured) as process:
        wait_until_caught(process, signal.SIGTERM)  # the last one that `main` sets
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            pass
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def test_main_leaves_signal_handlers_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit):
        main(["--version"])
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert __version__ in capsys.readouterr().out
