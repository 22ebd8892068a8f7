"""Every way in which a download from storage can break: devices see one, and bytes come once."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mender_gateway.demo.cloud import CloudSettings
from mender_gateway.demo.exchanges import Exchange
from mender_gateway.demo.faults import Behaviour, Gate, answer, cut, expired, stalled, with_header
from tests.artifacts.site import Site, running_site
from tests.e2e.line import Line
from tests.support.pki import make_server_pki

CONTENT = os.urandom(6 * 1024 * 1024)
_BREAK = 2_000_000


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_site(tmp_path, cache=True, limits={"BodyProgress": "300ms"}) as site:
        site.storage.put("a", CONTENT)
        yield site


def ranges(site: Site) -> list[str | None]:
    return [asked.header("range") for asked in site.storage.requests]


def received(site: Site) -> float:
    """Bytes that fills have received."""
    return site.metric("mender_gateway_cache_fill_bytes_total")


@pytest.mark.parametrize("kind", ["fin", "rst", "stall"])
def test_a_break_is_resumed_at_the_byte_where_it_was(site: Site, kind: str) -> None:
    gate = Gate()
    broken = {
        "fin": cut(_BREAK),
        "rst": cut(_BREAK, reset=True),
        "stall": stalled(_BREAK, gate),
    }
    path = site.link(site.storage.link("a"))
    site.storage.script("GET /*/a", broken[kind])
    status, _, body = site.get(path)
    gate.release()
    assert (status, body) == (200, CONTENT)
    first, second = site.storage.requests
    assert first.header("range") is None
    start = int((second.header("range") or "").removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= _BREAK
    assert kind == "rst" or start == _BREAK  # a reset may take bytes away that were under way
    assert second.header("if-range") is not None
    assert received(site) == len(CONTENT)


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_storage_that_refuses_to_resume_is_asked_again(site: Site, status: int) -> None:
    path = site.link(site.storage.link("a"))
    site.storage.script("GET /*/a", cut(_BREAK))
    site.storage.script("GET /*/a", answer(status), times=3)
    assert site.get(path)[2] == CONTENT
    assert ranges(site) == [None, *[f"bytes={_BREAK}-"] * 4]
    assert received(site) == len(CONTENT)


def test_another_range_than_was_asked_for_is_not_used(site: Site) -> None:
    path = site.link(site.storage.link("a"))
    site.storage.script("GET /*/a", cut(_BREAK))
    wrong = f"bytes {_BREAK + 7}-{len(CONTENT) - 1}/{len(CONTENT)}"
    site.storage.script("GET /*/a", with_header("Content-Range", wrong))
    short = f"bytes {_BREAK}-{len(CONTENT) - 2}/{len(CONTENT)}"
    site.storage.script("GET /*/a", with_header("Content-Range", short))
    assert site.get(path)[2] == CONTENT
    assert ranges(site) == [None, *[f"bytes={_BREAK}-"] * 3]


def test_an_expired_link_is_replaced_by_a_newer_one_that_comes_with_a_poll(site: Site) -> None:
    old, new = site.storage.link("a", life=1000), site.storage.link("a", life=2000)
    signature = old.rpartition("=")[2]

    def resumes_by_the_old_one(asked: Exchange) -> bool:
        return asked.header("range") is not None and asked.target.endswith(signature)

    refused = site.storage.script(resumes_by_the_old_one, expired(), times=None)
    site.storage.script("GET /*/a", cut(_BREAK))
    path = site.link(old)
    with ThreadPoolExecutor(1) as devices:
        device = devices.submit(site.get, path)
        site.storage.wait_for(lambda: refused.used > 0)
        site.link(new)  # another device asks for its next deployment
        assert device.result(60)[2] == CONTENT
    assert site.storage.requests[-1].target.endswith(new.rpartition("=")[2])
    assert received(site) == len(CONTENT)


class Clock:
    """The store's."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ageing(tmp_path: Path, clock: Clock) -> Iterator[Site]:
    """A site by whose store's clock links end."""
    settings = CloudSettings(clock=clock)
    with running_site(tmp_path, cache=True, cloud_settings=settings) as site:
        site.storage.put("a", CONTENT)
        yield site


def next_link(site: Site, clock: Clock) -> str:
    """A link signed a quarter of an hour after the one before, which has ended by then."""
    clock.now += 900.0
    return site.storage.link("a", life=899)


def test_a_device_with_an_older_link_is_served_by_a_newer_one(ageing: Site, clock: Clock) -> None:
    older = ageing.link(next_link(ageing, clock))
    newer = next_link(ageing, clock)
    ageing.link(newer)
    assert ageing.get(older)[2] == CONTENT
    [asked] = ageing.storage.requests
    assert newer.endswith(asked.target)


def test_a_killed_gateway_goes_on_by_the_newest_link_that_it_had(
    ageing: Site, clock: Clock
) -> None:
    older = ageing.link(next_link(ageing, clock))
    newer = next_link(ageing, clock)
    ageing.link(newer)
    gate = Gate()
    ageing.storage.script("GET /*/a", stalled(_BREAK, gate))
    with ThreadPoolExecutor(1) as devices:
        cut_off = devices.submit(ageing.get, older)
        gate.wait_reached(20)
        ageing.gateway.stop(signal.SIGKILL)
        assert cut_off.exception(20) is not None
    gate.release()
    ageing.start()
    assert ageing.get(older)[2] == CONTENT
    assert [newer.endswith(asked.target) for asked in ageing.storage.requests] == [True, True]


class SpoiltLine(Line):
    """Flips one bit on its way to the gateway, once."""

    def __init__(self, at: int) -> None:
        self.left: int | None = at
        """Bytes to the one that is spoilt, None afterwards."""
        super().__init__()

    def _copy(self, source: socket.socket, sink: socket.socket, limited: bool = False) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if limited and self.left is not None:
                    self.left -= len(data)
                    if self.left < 0:
                        self.left = None
                        data = bytes([data[0] ^ 1]) + data[1:]
                sink.sendall(data)
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def spoilt_line(at: int) -> Iterator[SpoiltLine]:
    line = SpoiltLine(at)
    try:
        yield line
    finally:
        line.close()


def test_a_tls_error_is_a_break_like_any_other(tmp_path: Path) -> None:
    pki = make_server_pki(tmp_path / "pki")
    settings = CloudSettings(storage_tls=pki.server_context())
    with (
        spoilt_line(_BREAK) as line,
        running_site(tmp_path, cache=True, start=False, cloud_settings=settings) as site,
    ):
        line.target = int(site.storage.base.rpartition(":")[2])
        site.storage.base = f"https://127.0.0.1:{line.port}"
        site.upstream_settings = {"CACertificate": str(pki.ca)}
        site.start()
        site.storage.put("a", CONTENT)
        assert site.get(site.link(site.storage.link("a")))[2] == CONTENT
        assert line.left is None
        first, second = ranges(site)
        assert first is None
        start = int((second or "").removeprefix("bytes=").removesuffix("-"))
        assert 0 < start < len(CONTENT)
        assert received(site) == len(CONTENT)
        site.gateway.wait_for_log("cache: fill broke.*(SSL|TLS)")


def test_a_device_that_waits_goes_on_as_soon_as_bytes_flow_again(site: Site) -> None:
    gate = Gate()
    path = site.link(site.storage.link("a"))
    site.storage.script("GET /*/a", cut(_BREAK))
    site.storage.script("GET /*/a", Behaviour(stall_after=1_000_000, stall=gate))
    connection = site.connect()
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.read(_BREAK + 1_000_000) == CONTENT[: _BREAK + 1_000_000]
    gate.release()
    assert response.read() == CONTENT[_BREAK + 1_000_000 :]
    connection.close()
