"""What the gateway host's own Mender client learns from the inventory script."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mender_gateway.demo.cloud import CloudSettings, running
from tests.support.device import Device

SCRIPT = Path(__file__).parents[2] / "packaging" / "inventory" / "mender-inventory-mender-gateway"


def gateway_command(folder: Path, config: Path) -> Path:
    """A `mender-gateway` for PATH that reads this configuration."""
    command = folder / "mender-gateway"
    folder.mkdir(parents=True, exist_ok=True)
    command.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m mender_gateway "$@" --config "{config}"\n'
    )
    command.chmod(0o755)
    return command


def run_script(folder: Path, config: dict[str, Any] | None, **environment: str) -> str:
    """What the script prints, with a gateway in PATH that reads `config`; None: a broken one."""
    path = folder / "gateway.conf"
    path.write_text("{" if config is None else json.dumps(config))
    command = gateway_command(folder / "bin", path)
    ran = subprocess.run(
        ["sh", str(SCRIPT)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": f"{command.parent}:{os.environ['PATH']}", **environment},
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def settings(**system: Any) -> dict[str, Any]:
    return {
        "HTTP": {"Enabled": True},
        "UpstreamServer": {"URL": "https://example.com"},
        "Features": {"DeviceSystem": system},
    }


@pytest.mark.parametrize(
    ("config", "printed"),
    [
        (settings(), "mender_is_gateway=true\n"),
        (settings(Enabled=False, SystemID="plant 7"), "mender_is_gateway=true\n"),
        (
            settings(Enabled=True, SystemID="plant 7 = north"),
            "mender_is_gateway=true\nmender_gateway_system_id=plant 7 = north\n",
        ),
        (None, "mender_is_gateway=true\n"),
    ],
    ids=["without", "disabled", "enabled", "broken"],
)
def test_the_system_is_named_only_where_it_is_enabled(
    config: dict[str, Any] | None, printed: str, tmp_path: Path
) -> None:
    assert run_script(tmp_path, config) == printed


def test_the_environment_counts_too(tmp_path: Path) -> None:
    found = run_script(
        tmp_path, settings(), DEVICE_SYSTEM_ENABLED="true", DEVICE_SYSTEM_ID="from-environment"
    )
    assert found.splitlines()[1:] == ["mender_gateway_system_id=from-environment"]


def test_without_the_command_the_host_is_still_called_a_gateway(tmp_path: Path) -> None:
    ran = subprocess.run(
        ["/bin/sh", str(SCRIPT)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": str(tmp_path)},
    )
    assert ran.stdout == "mender_is_gateway=true\n"


@pytest.mark.device
def test_the_gateway_hosts_own_client_reports_it(tmp_path: Path) -> None:
    config = tmp_path / "gateway.conf"
    config.write_text(json.dumps(settings(Enabled=True, SystemID="plant-7")))
    with running(CloudSettings(accept_all=True)) as cloud:
        host = Device("host", tmp_path / "host", cloud.upstream.base)
        host.add_inventory_script(SCRIPT)
        gateway_command(tmp_path / "host" / "bin", config)
        with host:
            host.wait_until(
                lambda: (
                    cloud.upstream.device(host.identity)
                    and "mender_is_gateway" in cloud.upstream.inventory_of(host.identity)
                ),
                "inventory",
                60,
            )
        found = cloud.upstream.inventory_of(host.identity)
    assert found["mender_is_gateway"] == "true"
    assert found["mender_gateway_system_id"] == "plant-7"
