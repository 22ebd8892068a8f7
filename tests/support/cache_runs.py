"""Caches on real directories, closed and checked for leaked descriptors after each test."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from mender_gateway.cache import Cache, CacheSettings, Event
from mender_gateway.cache.disk import Disk

Scenario = Callable[[], Awaitable[Any]]
Run = Callable[[Scenario], None]


def run_scenario(scenario: Scenario) -> None:
    """Runs a scenario under uvloop as the gateway does; no descriptor may be left behind."""

    async def main() -> None:
        await asyncio.sleep(0)
        before = open_files()
        async with asyncio.timeout(100):
            await scenario()
        after = open_files()
        assert after <= before, f"left open: {after - before}"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(main())


def open_files() -> set[str]:
    """The regular files and directories that this process has open, by descriptor."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{fd}")
            if target.startswith("/") and not target.startswith(("/dev/", "/proc/")):
                found.add(f"{fd} {target}")
    return found


AT_ONCE: dict[str, Any] = {"min_free_space": 0, "chunk": 256 * 1024, "room_patience": 0.0}
"""Small chunks, all of the disk, and no waiting for room."""


class Caches:
    """Makes caches on one directory and remembers what they reported."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = []

    @contextlib.asynccontextmanager
    async def open(self, *, disk: Disk | None = None, **settings: Any) -> AsyncIterator[Cache]:
        chosen = CacheSettings(**{**AT_ONCE, **settings})
        cache = Cache(
            str(self.path), settings=chosen, report=self.events.append, disk=disk, luck=lambda: 0.5
        )
        await cache.start()
        try:
            yield cache
        finally:
            await cache.close()

    def kinds(self) -> list[str]:
        return [event.kind.value for event in self.events]

    def names(self, below: str) -> list[str]:
        folder = self.path / "v1" / below
        return sorted(p.name for p in folder.iterdir()) if folder.exists() else []
