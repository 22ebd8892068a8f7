"""Files whose changes take effect by themselves: a thread that looks at them twice a second.

Polling needs no further dependency and also sees what replaces a directory behind a symbolic link
(mounted secrets). A change counts once the files have stood still for one look, so that a file is
not read while it is being written.
"""

import os
import threading
from collections.abc import Callable, Sequence

_PERIOD = 0.5
"""Seconds between two looks; a change takes effect after two looks and the time of loading."""

type_of_look = tuple[object, ...]


class FileWatch:
    """Calls `on_change` in its own thread; `paths` are files or directories of files."""

    def __init__(
        self,
        paths: Sequence[str],
        on_change: Callable[[], None],
        seen: type_of_look | None = None,
        period: float = _PERIOD,
    ) -> None:
        """`seen`: what `look` said before the files were read."""
        self._paths = tuple(paths)
        self._on_change = on_change
        self._period = period
        self._ending = threading.Event()
        self._seen = look(self._paths) if seen is None else seen
        self._thread = threading.Thread(target=self._run, name="file-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread; waits for a running `on_change`."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        before: type_of_look | None = None
        while not self._ending.wait(self._period):
            now = look(self._paths)
            if now == before != self._seen:
                self._seen = now
                self._on_change()
            before = now


def look(paths: Sequence[str]) -> type_of_look:
    """What tells whether files are what they were; blocks for the file system."""
    return tuple(_entry(path) for path in paths)


def _entry(path: str) -> object:
    try:
        found = os.stat(path)
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                names = sorted(entry.path for entry in entries if not entry.name.startswith("."))
            return (found.st_ino, *((name, _entry(name)) for name in names[:1024]))
    except OSError as error:
        return error.errno
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
