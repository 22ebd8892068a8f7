"""What `check-config` shows: settings in force, their origins, warnings, errors, no secret."""

import json
import os
import pty
import socket
import subprocess
from pathlib import Path

import pytest

from mender_gateway.config.keys import KEYS
from tests.cli.command import command, environment, run
from tests.config.pki import key_pem, make_certificate, write_pair

UPSTREAM = {"HTTP_ENABLED": "true", "UPSTREAM_SERVER_URL": "https://hosted.mender.io"}


def rows(output: str) -> dict[str, list[str]]:
    """The cells of each line of the table by key."""
    lines = output.partition("\n\n")[0].splitlines()
    assert lines[0].split() == ["KEY", "VALUE", "ORIGIN"]
    return {line.split()[0]: line.split()[1:] for line in lines[1:]}


def test_every_setting_is_shown_with_its_origin(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text('{"HTTP": {"Listen": ":8080"}, "Limits": {"RequestHead": 90}}')
    done = run("check-config", "--config", str(path), variables=UPSTREAM)
    assert done.returncode == 0
    assert done.stderr == ""
    table = rows(done.stdout)
    assert list(table) == [key.path for key in KEYS]
    assert table["HTTP.Enabled"] == ["true", "environment"]
    assert table["HTTP.Listen"] == [":8080", "file"]
    assert table["HTTPS.Listen"] == [":443", "default"]
    assert table["Limits.RequestHead"] == ["1m30s", "file"]
    assert table["Limits.HeadBytes"] == ["64KiB", "default"]
    assert table["HTTPS.ServerKey"] == ["-", "default"]
    assert done.stdout.endswith("the gateway would start: nothing to complain about\n")


def test_the_flag_may_stand_before_the_command(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text('{"HTTP": {"Listen": ":8080"}}')
    done = run("--config", str(path), "check-config", variables=UPSTREAM)
    assert rows(done.stdout)["HTTP.Listen"] == [":8080", "file"]


def test_secrets_are_masked() -> None:
    secret = "aHVudGVyMmh1bnRlcjI="
    variables = {
        "MTLS_MENDER_PASSWORD": "hunter2",
        "ARTIFACTS_PROXY_CACHE_SECRET": secret,
        "HTTPS_PROXY": "http://user:hunter2@proxy:3128",
    }
    done = run("check-config", variables={**UPSTREAM, **variables})
    assert done.returncode == 0
    assert "hunter2" not in done.stdout
    assert secret not in done.stdout
    table = rows(done.stdout)
    assert table["Features.mTLS.MenderPassword"] == ["***", "environment"]
    assert table["Features.ArtifactsProxy.ArtifactsCache.SignatureSecret"][0] == "***"
    assert table["HTTPS_PROXY"] == ["http://***@proxy:3128", "environment"]


def test_errors_are_all_shown_with_status_1(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text(json.dumps({"HTTP": {"Enabled": 1, "Listen": "x"}, "Htps": {}}))
    done = run("check-config", "--config", str(path))
    assert done.returncode == 1
    assert rows(done.stdout)["HTTP.Listen"] == ["(unusable)", "default"]
    assert "warning: Htps: unknown key" in done.stdout
    assert "error: HTTP.Enabled: 1 " in done.stdout
    assert 'error: HTTP.Listen: "x" ' in done.stdout
    assert done.stdout.endswith("the gateway would not start: 2 errors, 1 warning\n")


def test_an_invalid_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text("{\n  nonsense")
    done = run("check-config", "--config", str(path))
    assert done.returncode == 1
    assert f"error: --config: {path} is no valid JSON: line 2 column 3" in done.stdout


def test_a_missing_upstream_is_an_error() -> None:
    done = run("check-config", variables={"HTTP_ENABLED": "1"})
    assert done.returncode == 1
    assert rows(done.stdout)["UpstreamServer.URL"] == ["(missing)", "default"]
    assert "error: UpstreamServer.URL: missing" in done.stdout


def test_all_problems_of_certificates_are_shown(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path, make_certificate("gateway", days=(-9, -1)))
    variables = {
        **UPSTREAM,
        "HTTPS_ENABLED": "true",
        "HTTPS_SERVER_CERTIFICATE": certificate,
        "HTTPS_SERVER_KEY": key,
        "UPSTREAM_SERVER_CA_CERTIFICATE": "/absent.pem",
        "MTLS_ENABLED": "true",
        "MTLS_CA_CERTIFICATE": key,
    }
    done = run("check-config", variables=variables)
    assert done.returncode == 1
    assert f"warning: HTTPS.ServerCertificate: {certificate} expired on" in done.stdout
    assert "error: UpstreamServer.CACertificate: cannot read /absent.pem" in done.stdout
    assert f"error: Features.mTLS.CACertificate: {key} is no bundle" in done.stdout


def test_a_mismatched_pair_is_an_error(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path, make_certificate("gateway"))
    Path(key).write_bytes(key_pem(make_certificate("other")))
    variables = {
        **UPSTREAM,
        "HTTPS_ENABLED": "true",
        "HTTPS_SERVER_CERTIFICATE": certificate,
        "HTTPS_SERVER_KEY": key,
    }
    done = run("check-config", variables=variables)
    assert done.returncode == 1
    assert f"error: HTTPS.ServerKey: {key} does not belong to" in done.stdout


def test_no_port_is_opened() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listen = {"HTTP_LISTEN": f"127.0.0.1:{port}"}
        done = run("check-config", variables={**UPSTREAM, **listen})
    assert done.returncode == 0


@pytest.mark.parametrize("columns", ["60", "200"])
def test_on_a_terminal_the_table_is_drawn(columns: str, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen(
            command("check-config"),
            env=environment({**UPSTREAM, "COLUMNS": columns, "TERM": "xterm"}),
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        output = b""
        try:
            while chunk := os.read(master, 65536):
                output += chunk
        except OSError:  # the other end is closed (pty(7))
            pass
        assert process.wait(30) == 0
    finally:
        os.close(master)
    text = output.decode()
    assert "│" in text
    assert "the gateway would start" in text
