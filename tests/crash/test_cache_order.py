"""What a power cut may find is decided by the order of a commit's calls, on any file system."""

import os
from pathlib import Path

from mender_gateway.cache.disk import Disk
from tests.support.cache_origin import ScriptedOrigin, content, fetch, object_id, until
from tests.support.cache_runs import Caches, run_scenario

SIZE = 300_001
CHUNK = 65536


class Recorder(Disk):
    """Writes down, by path below the cache, what is written, made durable and renamed."""

    def __init__(self, path: Path) -> None:
        self._prefix = f"{path}/v1/"
        self.calls: list[tuple[str, str]] = []

    def _note(self, name: str, path: str) -> None:
        self.calls.append((name, path.removeprefix(self._prefix)))

    def _of(self, fd: int) -> str:
        return os.readlink(f"/proc/self/fd/{fd}")

    def pwritev(self, fd, buffers, offset):  # type: ignore[no-untyped-def]
        self._note("write", self._of(fd))
        return super().pwritev(fd, buffers, offset)

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self._note("durable", self._of(fd))

    def rename(self, old: str, new: str) -> None:
        super().rename(old, new)
        self._note("rename", new)


def test_a_name_under_objects_appears_when_all_behind_it_is_durable(tmp_path: Path) -> None:
    caches, name = Caches(tmp_path / "cache"), object_id("a")
    disk = Recorder(caches.path)

    async def scenario() -> None:
        async with caches.open(disk=disk, chunk=CHUNK) as cache:
            await fetch(cache, "a", ScriptedOrigin(content(SIZE)))
            await until(lambda: cache.figures().commits == 1)

    run_scenario(scenario)
    calls = disk.calls
    data = next(path for what, path in calls if what == "write")
    last_byte = max(at for at, call in enumerate(calls) if call == ("write", data))
    appears = calls.index(("rename", f"objects/{name}"))
    made = f"partial/{name}/object"
    for path in (data, f"{made}/meta.new", made):
        assert ("durable", path) in calls[last_byte:appears], f"{path} may be lost"
    assert calls.index(("rename", f"{made}/data")) < calls.index(("durable", made))
    assert calls.index(("rename", f"{made}/meta")) < calls.index(("durable", made))
    assert ("durable", "objects") in calls[appears:], "the name itself may be lost"
    gone = next(at for at, (what, path) in enumerate(calls) if path.startswith("trash/"))
    assert calls.index(("durable", "objects")) < gone, "nothing is thrown away before"
