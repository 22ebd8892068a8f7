"""`mender-gateway cache`: what it shows, what it removes, and what it leaves alone."""

import json
import os
import pty
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mender_gateway.cache.disk import Disk
from mender_gateway.cache.locks import EXCLUSIVE, SHARED, try_lock
from mender_gateway.cli.cache_tables import age_text, size_text
from mender_gateway.demo.faults import Gate, stalled
from tests.artifacts.made import artifact
from tests.artifacts.site import Site, running_site
from tests.cache.test_shelf import CONTENT, store
from tests.cli.command import command, environment, run

DAY = 86_400.0


def cache(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    action, *rest = arguments
    return run("cache", action, "--path", str(folder), *rest)


def answered(folder: Path, *arguments: str) -> dict[str, Any]:
    done = cache(folder, *arguments, "--json")
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def on_a_terminal(folder: Path, action: str) -> bytes:
    """All that a terminal is shown."""
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb", buffering=0) as screen:
        subprocess.run(
            command("cache", action, "--path", str(folder)),
            env=environment({"COLUMNS": "150", "TERM": "xterm"}),
            stdout=follower,
            stderr=follower,
            check=True,
            timeout=30,
        )
        os.close(follower)
        shown = b""
        try:
            while data := screen.read(65536):
                shown += data
        except OSError:
            pass  # the terminal's end
    return shown


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "v1" / "objects"))


@pytest.fixture
def stocked(tmp_path: Path) -> Path:
    """A cache with three objects of 3 MiB, served 40 days, 10 days and a moment ago."""
    for name, age in (("old", 40 * DAY), ("middle", 10 * DAY), ("new", 0.0)):
        store(tmp_path, name, age=age)
    return tmp_path


@contextmanager
def fetching(folder: Path) -> Iterator[Site]:
    """A site whose gateway has fetched a part of an object, and waits for the rest."""
    gate = Gate()
    with running_site(folder, cache=True) as site:
        site.storage.put("a", CONTENT)
        site.storage.script("GET /*/a", stalled(1_500_000, gate))
        connection = site.connect()
        try:
            connection.request("GET", site.link(site.storage.link("a")))
            assert len(connection.getresponse().read(1_000_000)) == 1_000_000
            yield site
        finally:
            gate.release()
            connection.close()


class TestList:
    def test_a_gateways_artifacts_are_named(self, tmp_path: Path) -> None:
        with running_site(tmp_path, cache=True) as site:
            site.storage.put("a", artifact(name="release-8"))
            assert site.get(site.link(site.storage.link("a")))[0] == 200
            done = run("cache", "list", "--config", str(tmp_path / "gateway.conf"))
            assert done.returncode == 0, done.stderr
            assert "release-8  board-1, board-2" in done.stdout
            assert "verified" in done.stdout
            before = run("--config", str(tmp_path / "gateway.conf"), "cache", "list")
            names = [line.split("  ")[:2] for line in before.stdout.splitlines()[:2]]
            assert names == [line.split("  ")[:2] for line in done.stdout.splitlines()[:2]]
            [found] = answered(tmp_path / "cache", "list")["objects"]
            assert found["artifact_name"] == "release-8"
            assert found["device_types"] == ["board-1", "board-2"]
            assert found["provides"]["artifact_group"] == "group-1"
            assert found["verified"] is True
            assert found["signed"] is False
            assert time.time() - found["last_served"] < 100

    def test_what_is_arriving_is_shown(self, tmp_path: Path) -> None:
        with fetching(tmp_path) as site:
            [partial] = answered(site.folder / "cache", "list")["partials"]
            assert partial["filling"] is True
            assert partial["size"] == len(CONTENT)
            assert "arriving" in cache(site.folder / "cache", "list").stdout

    def test_an_empty_cache_is_no_error(self, tmp_path: Path) -> None:
        done = cache(tmp_path, "list")
        assert done.returncode == 0
        assert "0 objects" in done.stdout

    def test_a_terminal_gets_a_table(self, stocked: Path) -> None:
        shown = on_a_terminal(stocked, "list")
        assert "┏━".encode() in shown
        assert b"40 d ago" in shown


def test_info_tells_sizes_and_limits(stocked: Path) -> None:
    found = answered(stocked, "info")
    assert found["objects"] == 3
    assert found["object_bytes"] >= 3 * len(CONTENT)
    assert found["partials"] == 0
    assert found["free_bytes"] > 0
    assert found["min_free_space"] >= 64 * 1024 * 1024
    shown = cache(stocked, "info").stdout
    assert str(stocked) in shown
    assert "no limit" in shown


class TestPrune:
    def test_by_age(self, stocked: Path) -> None:
        found = answered(stocked, "prune", "--older-than", "30d")
        assert found["removed"] == ["old"]
        assert found["freed_bytes"] >= len(CONTENT)
        assert names(stocked) == ["middle", "new"]

    def test_by_size_the_longest_unserved_first(self, stocked: Path) -> None:
        found = answered(stocked, "prune", "--to-size", "4MB")
        assert found["removed"] == ["old", "middle"]
        assert found["left_bytes"] <= 4_000_000
        assert names(stocked) == ["new"]

    def test_a_dry_run_removes_nothing(self, stocked: Path) -> None:
        done = cache(stocked, "prune", "--to-size", "0", "--dry-run")
        assert done.returncode == 0
        assert done.stdout.count("would remove object") == 3
        assert len(names(stocked)) == 3

    def test_what_is_served_stays_and_others_go_for_it(self, stocked: Path) -> None:
        disk = Disk()
        lock = try_lock(disk, str(stocked / "v1" / "objects" / "old" / "data"), SHARED)
        assert lock is not None
        found = answered(stocked, "prune", "--to-size", "4MB")
        assert found["in_use"] == ["old"]
        assert found["removed"] == ["middle", "new"]
        assert names(stocked) == ["old"]
        done = cache(stocked, "prune", "--to-size", "1MB")
        assert done.returncode == 1
        assert "in use" in done.stdout
        disk.close(lock)

    def test_what_a_dead_filler_left_goes_and_what_is_filled_stays(self, tmp_path: Path) -> None:
        with fetching(tmp_path) as site:
            folder = site.folder / "cache"
            found = answered(folder, "prune", "--to-size", "0")
            assert found["removed"] == []
            site.gateway.stop(9)
            [partial] = answered(folder, "list")["partials"]
            assert partial["filling"] is False
            found = answered(folder, "prune", "--to-size", "0")
            assert found["removed"] == [partial["id"]]
            assert os.listdir(folder / "v1" / "partial") == []

    def test_it_must_be_told_what(self, stocked: Path) -> None:
        done = cache(stocked, "prune")
        assert done.returncode == 1
        assert "--older-than" in done.stderr
        assert len(names(stocked)) == 3

    @pytest.mark.parametrize("option", ["--older-than", "--to-size"])
    def test_a_malformed_amount_is_explained(self, stocked: Path, option: str) -> None:
        done = cache(stocked, "prune", option, "much")
        assert done.returncode == 2
        assert "'much' is no" in done.stderr


class TestVerify:
    def test_whole_objects_are_right(self, stocked: Path) -> None:
        found = answered(stocked, "verify")
        assert sorted(found["right"]) == ["middle", "new", "old"]
        assert found["damaged"] == []

    def test_a_terminal_gets_a_bar_and_a_pipe_none(self, stocked: Path) -> None:
        shown = on_a_terminal(stocked, "verify")
        assert "━".encode() in shown
        assert b"verifying" in shown
        assert b"3 right" in shown
        done = cache(stocked, "verify")
        assert (done.stderr, done.stdout) == ("", "3 right, 0 damaged\n")

    def test_damaged_ones_are_removed_unless_they_shall_be_kept(self, stocked: Path) -> None:
        data = stocked / "v1" / "objects" / "middle" / "data"
        data.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
        done = cache(stocked, "verify", "--keep")
        assert done.returncode == 1
        assert "damaged: middle, kept" in done.stdout
        assert len(names(stocked)) == 3
        done = cache(stocked, "verify")
        assert done.returncode == 1
        assert "damaged: middle, removed" in done.stdout
        assert names(stocked) == ["new", "old"]
        assert cache(stocked, "verify").returncode == 0

    def test_single_ones_are_named_by_the_beginning_of_their_ids(self, stocked: Path) -> None:
        assert answered(stocked, "verify", "mid", "ne")["right"] == ["middle", "new"]
        done = cache(stocked, "verify", "absent")
        assert done.returncode == 1
        assert "no object absent" in done.stderr


class TestMistakes:
    def test_a_directory_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        done = cache(tmp_path / "absent", "list")
        assert done.returncode == 1
        assert f"no directory {tmp_path / 'absent'}" in done.stderr

    def test_a_configuration_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        done = run("cache", "info", "--config", str(tmp_path / "absent.conf"))
        assert done.returncode == 1
        assert "absent.conf" in done.stderr

    def test_nothing_is_left_behind_in_the_directory(self, stocked: Path) -> None:
        """Files of another user's would lock the gateway out."""
        before = sorted(str(path) for path in stocked.rglob("*"))
        for action in ("list", "info", "verify"):
            assert cache(stocked, action).returncode == 0
        assert cache(stocked, "prune", "--older-than", "9999d").returncode == 0
        assert sorted(str(path) for path in stocked.rglob("*")) == before
        disk = Disk()
        lock = try_lock(disk, str(stocked / "v1" / "objects" / "new" / "data"), EXCLUSIVE)
        assert lock is not None
        disk.close(lock)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (25 * 10**11, "2500.0 GB")]
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5.0, "0 s ago"), (119.0, "119 s ago"), (120.0, "2 min ago"), (3 * DAY, "3 d ago")],
)
def test_ages_for_people(seconds: float, text: str) -> None:
    assert age_text(seconds) == text
