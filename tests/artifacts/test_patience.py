"""How long a download waits for storage, and what waits for no thread: shown by short limits."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import pytest

from mender_gateway.demo.faults import Behaviour, Gate, answer, held, stalled
from tests.artifacts.site import Site, running_site

CONTENT = os.urandom(8 * 1024 * 1024)


@pytest.fixture
def cached(tmp_path: Path) -> Iterator[Site]:
    limits = {"BodyProgress": "200ms"}
    with running_site(tmp_path / "cached", cache=True, limits=limits) as site:
        yield site


def test_silence_that_breaks_a_fill_does_not_break_what_cannot_be_resumed(
    tmp_path: Path, cached: Site
) -> None:
    """Past the cache nobody resumes but the device, a minute later: storage is waited for."""
    limits = {"BodyProgress": "200ms"}
    with running_site(tmp_path / "uncached", cache=False, limits=limits) as uncached:
        gate = Gate()
        for site in (cached, uncached):
            site.storage.put("a", CONTENT)
            site.storage.script("GET /*/a", stalled(1_000_000, gate))
        with ThreadPoolExecutor(2) as devices:
            around = devices.submit(uncached.get, uncached.link(uncached.storage.link("a")))
            uncached.storage.wait_for(lambda: uncached.storage.usage("a").gets == 1)
            through = devices.submit(cached.get, cached.link(cached.storage.link("a")))
            assert through.result(30)[2] == CONTENT  # the silence was a break, and resumed
            assert cached.storage.usage("a").gets == 2
            gate.release()
            assert around.result(30)[2] == CONTENT
        assert uncached.storage.usage("a").gets == 1


def test_an_artifact_that_does_not_open_is_waited_for_as_long_as_a_first_byte(
    tmp_path: Path,
) -> None:
    """DownloadFirstByte, 15 minutes by default: then the device is let go to come again."""
    limits = {"DownloadFirstByte": "700ms"}
    with running_site(tmp_path, cache=True, limits=limits) as site:
        site.storage.put("a", CONTENT)
        path = site.link(site.storage.link("a"))
        rule = site.storage.script("GET /*/a", answer(503), times=None)
        with pytest.raises((HTTPException, ConnectionError)):
            site.get(path)
        assert rule.used > 1
        rule.cancel()
        assert site.get(path)[2] == CONTENT


def test_a_first_byte_that_does_not_come_ends_the_wait_likewise(tmp_path: Path) -> None:
    limits = {"DownloadFirstByte": "700ms"}
    with running_site(tmp_path, cache=True, limits=limits) as site:
        gate = Gate()
        site.storage.put("a", CONTENT)
        rule = site.storage.script("GET /*/a", held(gate), times=None)
        path = site.link(site.storage.link("a"))
        with pytest.raises((HTTPException, ConnectionError)):
            site.get(path)
        rule.cancel()
        assert site.get(path)[2] == CONTENT
        gate.release()


def test_an_artifact_that_was_replaced_by_a_shorter_one_is_not_asked_for_in_vain(
    cached: Site,
) -> None:
    """Storage that looks at the range before the validator answers 416 for ever."""
    gate = Gate()
    cached.storage.put("a", CONTENT)
    path = cached.link(cached.storage.link("a"))
    cached.storage.script(
        "GET /*/a", Behaviour(stall_after=2_000_000, stall=gate, cut_after=2_000_000)
    )
    cached.storage.script(
        lambda asked: asked.header("if-range") is not None,
        Behaviour(hide_headers=("if-range",)),
        times=None,
    )
    with ThreadPoolExecutor(1) as devices:
        device = devices.submit(cached.get, path)
        gate.wait_reached(20)
        cached.storage.put("a", CONTENT[:1_000_000])
        gate.release()
        with pytest.raises((HTTPException, ConnectionError)):
            device.result(30)
    assert cached.get(path)[2] == CONTENT[:1_000_000]


def switches(site: Site) -> dict[int, int]:
    """How often each thread of the gateway but its main one has gone to sleep."""
    found = {}
    pid = site.gateway.process.pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        if int(task.name) != pid:
            fields = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
            found[int(task.name)] = int(fields["voluntary_ctxt_switches"])
    return found


def reads_without_waiting(folder: Path) -> bool:
    """Whether the file system can be asked for what is in memory alone."""
    (folder / "probe").write_bytes(b"probe")
    fd = os.open(folder / "probe", os.O_RDONLY)
    try:
        return os.preadv(fd, [bytearray(5)], 0, os.RWF_NOWAIT) == 5
    except OSError:
        return False
    finally:
        os.close(fd)


def test_small_ranges_leave_without_a_sender_thread(tmp_path: Path, cached: Site) -> None:
    if not reads_without_waiting(tmp_path):
        pytest.skip("the file system knows no RWF_NOWAIT")
    rounds = 60
    cached.storage.put("a", CONTENT)
    path = cached.link(cached.storage.link("a"))
    assert cached.get(path)[2] == CONTENT
    connection = cached.connect()

    def woken(size: int) -> dict[int, int]:
        before = switches(cached)
        for number in range(rounds):
            wanted = f"bytes={number * size}-{(number + 1) * size - 1}"
            connection.request("GET", path, headers={"Range": wanted})
            assert connection.getresponse().read() == CONTENT[number * size : (number + 1) * size]
        return {task: count - before.get(task, 0) for task, count in switches(cached).items()}

    large, small = woken(100_000), woken(2048)
    connection.close()
    # the log's thread has its part in both; a sender's last sleep may be counted late
    senders = [task for task, count in large.items() if count and small.get(task, 0) <= 3]
    assert sum(large[task] for task in senders) >= rounds / 2
