"""How real clients treat connections: kept, refused, closed under them, abandoned."""

from pathlib import Path

import pytest

from tests.e2e.site import running_site

pytestmark = [pytest.mark.device, pytest.mark.full]


def test_connections_that_end_between_polls_do_no_harm(tmp_path: Path) -> None:
    """Real devices poll every half hour: the gateway and the server have hung up by then."""
    limits = {"KeepAlive": "1s", "UpstreamIdle": "1s"}
    with running_site(tmp_path, tls=True, limits=limits) as site:
        device = site.device("device")
        release = site.release("release-1", megabytes=2)
        site.wait_polling(device)
        site.wait(lambda: site.connections() == 0, "end of idle connections")
        site.wait_next_poll(device)
        site.assert_updated(site.deploy(release, device), release, device)


def test_a_client_without_keep_alive_updates(tmp_path: Path) -> None:
    with running_site(tmp_path, tls=True) as site:
        device = site.device("device", extra={"Connectivity": {"DisableKeepAlive": True}})
        release = site.release("release-1", megabytes=2)
        site.wait_polling(device)
        site.assert_updated(site.deploy(release, device), release, device)
        site.wait(lambda: site.connections() == 0, "moment without a connection")


def test_a_client_that_distrusts_the_gateway_holds_no_connections(tmp_path: Path) -> None:
    """It finishes the handshake, sends nothing, and leaves the connection open for ever."""
    with running_site(tmp_path, tls=True, limits={"FirstRequest": "2s"}) as site:
        stranger = site.device("stranger", ca=None)
        stranger.wait_for_log("certificate", 30)
        site.wait(lambda: site.connections() > 0, "abandoned connection")
        site.wait(lambda: site.connections() == 0, "end of the abandoned connections")
        assert site.cloud.upstream.requests == []
        device = site.device("device")
        site.wait_polling(device)
