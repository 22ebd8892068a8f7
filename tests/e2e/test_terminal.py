"""mender-connect behind the gateway: a remote shell over the tunnel of its WebSocket."""

import signal
import time
from pathlib import Path

import pytest

from tests.e2e.site import Site, running_site
from tests.support.device import Device

pytestmark = [pytest.mark.device, pytest.mark.full]


def _connected(site: Site) -> Device:
    device = site.device("device", terminal=True)
    site.wait_polling(device)
    device.connect()
    site.wait_connected(device)
    return device


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_remote_shell_works_both_ways(tmp_path: Path, tls: bool) -> None:
    with running_site(tmp_path, tls=tls) as site:
        device = _connected(site)
        with site.shell(device) as terminal:
            terminal.type("id -un; echo sum=$((40 + 2))\n")
            assert b"nobody\r\n" in terminal.read_until(b"sum=42")
            terminal.send("resize", props={"terminal_height": 33, "terminal_width": 99})
            terminal.type("stty size\n")
            terminal.read_until(b"33 99")
            terminal.type("head -c 300000 /dev/zero | tr '\\0' x; echo; echo end=$((1 + 1))\n")
            assert terminal.read_until(b"end=2", 30).count(b"x") >= 300_000


def test_a_new_authentication_opens_the_tunnel_anew(tmp_path: Path) -> None:
    """The client closes its WebSocket when its token changes, as in every deployment."""
    with running_site(tmp_path, tls=True) as site:
        device = _connected(site)
        release = site.release("release-1", megabytes=2)
        site.assert_updated(site.deploy(release, device), release, device)
        handshakes = "GET */deviceconnect/connect"
        site.wait(lambda: len(site.requests_of(device, handshakes)) > 1, "second WebSocket", 60)
        with site.shell(device) as terminal:
            terminal.type("echo sum=$((40 + 2))\n")
            terminal.read_until(b"sum=42")


def test_a_gateway_that_stops_ends_its_tunnels_and_devices_come_back(tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        device = _connected(site)
        with site.shell(device) as terminal:
            begun = time.monotonic()
            assert site.gateway.stop(signal.SIGTERM) == 0
            assert time.monotonic() - begun < 15
        site.wait(lambda: not site.cloud.upstream.connected(device.identity), "closed WebSocket")
        site.start_gateway()
        with site.shell(device) as terminal:
            terminal.type("echo sum=$((40 + 2))\n")
            terminal.read_until(b"sum=42")
