"""The directory looked at from beside: verdicts, listing, removal, the scrubber's order."""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mender_gateway.cache import Attributes
from mender_gateway.cache.disk import Disk
from mender_gateway.cache.layout import Layout, encode_meta, finished_meta, new_meta
from mender_gateway.cache.locks import EXCLUSIVE, SHARED, try_lock
from mender_gateway.cache.scrub import Scrubber
from mender_gateway.cache.settings import Event, Kind
from mender_gateway.cache.shelf import Shelf, Stored, Verdict
from tests.support.cache_disk import FaultyDisk

CONTENT = os.urandom(3 * 1024 * 1024 + 5)


def store(folder: Path, name: str, content: bytes = CONTENT, *, age: float = 0.0) -> Path:
    """A finished object as a commit leaves it; `age` seconds since it was served and checked."""
    path = Path(Layout(str(folder)).object(name))
    path.mkdir(parents=True)
    meta = new_meta(Attributes(len(content), etag='"e"'), bytes(8), 4096)
    sha256 = hashlib.sha256(content).hexdigest()
    (path / "meta").write_bytes(encode_meta(finished_meta(meta, sha256, '{"a":1}')))
    (path / "data").write_bytes(content)
    moment = time.time() - age
    for file in path.iterdir():
        os.utime(file, (moment, moment))
    return path


def found(shelf: Shelf, name: str) -> Stored:
    stored = shelf.object(name)
    assert stored is not None
    return stored


def test_what_is_right_is_right_and_its_time_is_noted(tmp_path: Path) -> None:
    store(tmp_path, "a", age=5000)
    shelf = Shelf(str(tmp_path))
    before = found(shelf, "a")
    assert shelf.examine(before) is Verdict.RIGHT
    after = found(shelf, "a")
    assert after.checked > before.checked + 4000
    assert after.used == before.used


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1024 * 1024, 1024 * 1024 + 1])
@pytest.mark.parametrize("cached", [True, False])
def test_objects_of_any_size_are_read_to_their_end(tmp_path: Path, size: int, cached: bool) -> None:
    path = store(tmp_path, "a", CONTENT[:size])
    shelf = Shelf(str(tmp_path))
    assert shelf.examine(found(shelf, "a"), cached=cached) is Verdict.RIGHT
    if size:
        (path / "data").write_bytes(CONTENT[: size - 1] + bytes([CONTENT[size - 1] ^ 1]))
        assert shelf.examine(found(shelf, "a"), cached=cached) is Verdict.WRONG


@pytest.mark.parametrize("change", [b"", CONTENT[:-1], CONTENT + b"x"])
def test_another_length_is_wrong(tmp_path: Path, change: bytes) -> None:
    path = store(tmp_path, "a")
    (path / "data").write_bytes(change)
    shelf = Shelf(str(tmp_path))
    assert shelf.examine(found(shelf, "a")) is Verdict.WRONG


def test_an_unreadable_object_is_wrong(tmp_path: Path) -> None:
    store(tmp_path, "a")
    disk = FaultyDisk()
    shelf = Shelf(str(tmp_path), disk)
    stored = found(shelf, "a")
    disk.fail("preadv", 5, first=1)
    assert shelf.examine(stored) is Verdict.WRONG


def test_an_object_that_goes_away_meanwhile_is_gone_and_not_wrong(tmp_path: Path) -> None:
    store(tmp_path, "a")
    shelf = Shelf(str(tmp_path))

    def evict(size: int) -> bool:
        shelf.remove("a")
        return True

    assert shelf.examine(found(shelf, "a"), evict) is Verdict.GONE
    assert shelf.object("a") is None


def test_reading_can_be_stopped(tmp_path: Path) -> None:
    store(tmp_path, "a")
    shelf = Shelf(str(tmp_path))
    assert shelf.examine(found(shelf, "a"), lambda size: False) is Verdict.STOPPED


def test_reading_hinders_no_eviction(tmp_path: Path) -> None:
    store(tmp_path, "a")
    shelf = Shelf(str(tmp_path))
    disk = Disk()

    def try_it(size: int) -> bool:
        lock = try_lock(disk, f"{shelf.layout.object('a')}/data", EXCLUSIVE)
        assert lock is not None
        disk.close(lock)
        return True

    assert shelf.examine(found(shelf, "a"), try_it) is Verdict.RIGHT


def test_what_is_served_is_removed_only_when_told_so(tmp_path: Path) -> None:
    store(tmp_path, "a")
    shelf, disk = Shelf(str(tmp_path)), Disk()
    lock = try_lock(disk, f"{shelf.layout.object('a')}/data", SHARED)
    assert lock is not None
    assert not shelf.remove("a")
    assert shelf.remove("a", even_if_served=True)
    disk.close(lock)
    assert shelf.objects() == []


def test_partials_are_listed_and_those_of_the_dead_removed(tmp_path: Path) -> None:
    shelf, disk = Shelf(str(tmp_path)), Disk()
    for name in ("dead", "alive"):
        path = Path(shelf.layout.partial(name))
        path.mkdir(parents=True)
        (path / "fill.lock").touch()
        (path / "data.0000000000000000").write_bytes(CONTENT)
        meta = new_meta(Attributes(len(CONTENT) * 2), bytes(8), 4096)
        (path / "meta").write_bytes(encode_meta(meta))
    Path(shelf.layout.trash).mkdir()
    lock = try_lock(disk, f"{shelf.layout.partial('alive')}/fill.lock", EXCLUSIVE)
    assert lock is not None
    alive, dead = shelf.arriving()
    assert (alive.object_id, alive.filling, alive.length) == ("alive", True, 2 * len(CONTENT))
    assert (dead.object_id, dead.filling) == ("dead", False)
    assert [c.object_id for c in shelf.candidates()] == ["dead"]
    assert not shelf.remove_partial("alive")
    assert shelf.remove_partial("dead")
    assert [partial.object_id for partial in shelf.arriving()] == ["alive"]
    disk.close(lock)


def test_what_died_while_it_was_committed_is_listed_and_removed_unless_it_is_read(
    tmp_path: Path,
) -> None:
    shelf, disk = Shelf(str(tmp_path)), Disk()
    path = Path(shelf.layout.partial("a"))
    (path / "object").mkdir(parents=True)
    (path / "fill.lock").touch()
    (path / "object" / "data").write_bytes(CONTENT)
    Path(shelf.layout.trash).mkdir()
    [partial] = shelf.arriving()
    assert partial.size >= len(CONTENT)
    reading = try_lock(disk, f"{path}/object/data", SHARED)
    assert reading is not None
    assert not shelf.remove_partial("a")
    disk.close(reading)
    (path / "object" / "data").unlink()
    assert shelf.remove_partial("a")
    assert not path.exists()
    assert not shelf.remove_partial("a")


def test_a_directory_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    shelf = Shelf(str(tmp_path / "absent"))
    assert shelf.objects() == []
    assert shelf.arriving() == []
    assert shelf.description("a") is None
    assert not shelf.remove("a")
    assert not shelf.remove_partial("a")


def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def is_open(path: str) -> bool:
    """Whether this process has the file open."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == path:
                return True
        except FileNotFoundError:
            continue
    return False


class TestScrubber:
    def scrubber(self, shelf: Shelf, interval: float) -> tuple[Scrubber, list[str], list[Event]]:
        removed: list[str] = []
        events: list[Event] = []

        def remove(object_id: str) -> None:
            removed.append(object_id)
            shelf.remove(object_id, even_if_served=True)

        return Scrubber(shelf, interval, remove, events.append), removed, events

    def test_only_what_is_due_is_read(self, tmp_path: Path) -> None:
        store(tmp_path, "old", age=1000)
        store(tmp_path, "new", age=10)
        shelf = Shelf(str(tmp_path))
        scrubber, removed, _ = self.scrubber(shelf, 500)
        scrubber.start()
        until(lambda: scrubber.figures.checked == 1)
        assert time.time() - found(shelf, "new").checked > 5
        assert time.time() - found(shelf, "old").checked < 60
        scrubber.close()
        assert scrubber.figures.checked == 1
        assert scrubber.figures.checked_bytes == len(CONTENT)
        assert removed == []

    def test_what_is_damaged_is_removed_and_reported(self, tmp_path: Path) -> None:
        path = store(tmp_path, "a", age=1000)
        os.truncate(path / "data", 100)
        scrubber, removed, events = self.scrubber(Shelf(str(tmp_path)), 500)
        scrubber.start()
        until(lambda: scrubber.figures.damaged == 1 and removed == ["a"])
        scrubber.close()
        assert [(event.kind, event.object_id) for event in events] == [(Kind.DAMAGED, "a")]
        assert not path.exists()

    def test_while_another_process_scrubs_nothing_is_read_but_suspects(
        self, tmp_path: Path
    ) -> None:
        store(tmp_path, "a", age=1000)
        store(tmp_path, "b", age=1000)
        shelf, disk = Shelf(str(tmp_path)), Disk()
        base = shelf.layout.base
        lock = try_lock(disk, f"{base}/scrub.lock", EXCLUSIVE, create=True)
        assert lock is not None
        scrubber, _, _ = self.scrubber(shelf, 0.5)
        scrubber.start()
        scrubber.suspect("b")
        until(lambda: scrubber.figures.checked == 1)
        assert time.time() - found(shelf, "a").checked > 900
        disk.close(lock)
        until(lambda: time.time() - found(shelf, "a").checked < 60)
        scrubber.close()

    def test_a_suspect_is_read_between_two_pieces_of_another(self, tmp_path: Path) -> None:
        store(tmp_path, "large", CONTENT * 8, age=1000)
        store(tmp_path, "suspect", age=10)
        shelf = Shelf(str(tmp_path))
        scrubber, _, _ = self.scrubber(shelf, 500)
        scrubber.start()
        until(lambda: is_open(f"{shelf.layout.object('large')}/data"))
        scrubber.suspect("suspect")
        until(lambda: time.time() - found(shelf, "suspect").checked < 5)
        assert time.time() - found(shelf, "large").checked > 900
        scrubber.close()

    def test_trouble_of_the_disk_does_not_end_it(self, tmp_path: Path) -> None:
        store(tmp_path, "a", age=1000)
        disk = FaultyDisk()
        fault = disk.fail("listdir", 5, times=3)
        scrubber, removed, _ = self.scrubber(Shelf(str(tmp_path), disk), 1.0)
        scrubber.start()
        until(lambda: scrubber.figures.checked >= 1)
        scrubber.close()
        assert fault.met > 3
        assert removed == []

    def test_it_ends_in_the_middle_of_an_object(self, tmp_path: Path) -> None:
        store(tmp_path, "large", CONTENT * 8, age=1000)
        scrubber, _, _ = self.scrubber(Shelf(str(tmp_path)), 500)
        scrubber.start()
        until(lambda: any(tmp_path.rglob("scrub.lock")))
        scrubber.close(patience=40)
        assert "scrub" not in {thread.name for thread in threading.enumerate()}
        assert scrubber.figures.checked == 0
