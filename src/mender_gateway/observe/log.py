"""The log: lines on standard error that never make the data plane wait.

A call appends one tuple to a bounded queue and returns. A single writer thread, asleep while there
is nothing to do, redacts, formats and writes what has gathered, so that a stderr which nobody reads
blocks that thread alone. When the queue is full new records are dropped and counted, and the count
is logged as soon as writing goes on. The thread is a daemon: neither a blocked stderr nor a
forgotten `close` keeps the process from ending.
"""

import os
import select
import threading
import time
from collections import deque
from typing import Literal

from mender_gateway.observe import lines
from mender_gateway.observe.lines import DEBUG, ERROR, FATAL, INFO, LEVELS, WARN
from mender_gateway.observe.redact import redact

__all__ = ["DEBUG", "ERROR", "FATAL", "INFO", "LEVELS", "WARN", "Form", "Log", "redact"]

Form = Literal["logfmt", "json"]

_CAPACITY = 4096
_SLICE = 64
"""Records formatted between two writes: the interpreter lock is held for half a millisecond."""
_GATHER = 0.02
"""Seconds that the writer lets records gather, so that one wake-up serves many."""
_MOST_KEYS = 1024
_Record = tuple[float, int, str, lines.Access | dict[str, object]]
"""Time, level, message and fields."""


class Log:
    """Owns its queue and its writer thread. Every method may be called from any thread."""

    def __init__(
        self,
        level: str | int = INFO,
        form: Form = "logfmt",
        *,
        descriptor: int = 2,
        capacity: int = _CAPACITY,
    ) -> None:
        self.level = LEVELS[level] if isinstance(level, str) else level
        """Records below it are not taken; compare with `DEBUG`, `INFO`, … before costly work."""
        self._form = lines.json_line if form == "json" else lines.logfmt
        self._access_form = lines.json_access if form == "json" else lines.logfmt_access
        self._descriptor = descriptor
        self._capacity = capacity
        self._queue: deque[_Record] = deque()
        self._lock = threading.Lock()
        self._dropped = 0
        self._reported = 0
        self._asleep = False
        self._busy = False
        self._work = threading.Event()
        self._closing = threading.Event()
        self._written = threading.Condition()
        self._limits: dict[str, tuple[float, int]] = {}
        self._second = (0, "")
        self._writer = threading.Thread(target=self._write_on, name="log", daemon=True)
        self._writer.start()

    def debug(self, msg: str, /, **fields: object) -> None:
        if self.level <= DEBUG:
            self._put(DEBUG, msg, fields)

    def info(self, msg: str, /, **fields: object) -> None:
        if self.level <= INFO:
            self._put(INFO, msg, fields)

    def warn(self, msg: str, /, **fields: object) -> None:
        if self.level <= WARN:
            self._put(WARN, msg, fields)

    def error(self, msg: str, /, **fields: object) -> None:
        if self.level <= ERROR:
            self._put(ERROR, msg, fields)

    def fatal(self, msg: str, /, **fields: object) -> None:
        """The last word before the process ends; ending it is the caller's part."""
        self._put(FATAL, msg, fields)

    def once_per(
        self, seconds: float, key: str, level: str | int, msg: str, /, **fields: object
    ) -> bool:
        """Log unless the same `key` was logged within `seconds`; whether it was.

        The next line for the key says how many were suppressed. Of 1,024 keys the oldest is
        forgotten first.
        """
        number = LEVELS[level] if isinstance(level, str) else level
        if number < self.level:
            return False
        now = time.monotonic()
        with self._lock:
            due, suppressed = self._limits.pop(key, (0.0, 0))
            if now < due:
                self._limits[key] = (due, suppressed + 1)
                return False
            while len(self._limits) >= _MOST_KEYS:
                del self._limits[next(iter(self._limits))]
            self._limits[key] = (now + seconds, 0)
        if suppressed:
            fields["suppressed"] = suppressed
        self._put(number, msg, fields)
        return True

    def access(
        self,
        method: str,
        path: str,
        status: int,
        bytes: int,
        seconds: float,
        peer: str,
        device: str | None,
        request_id: str,
        route: str,
        error: str | None = None,
    ) -> None:
        """The one line of a finished request: 5xx at error, 4xx at warning, else at info.

        `path` may be the raw target: query, fragment and tokens in it are not written. `error` is
        why the gateway itself refused or ended the answer.
        """
        level = INFO if status < 400 else WARN if status < 500 else ERROR
        if level >= self.level:
            values = (
                method,
                path[: lines.LONGEST],
                status,
                bytes,
                seconds,
                device and device[:128],
                request_id[:128],
                route,
                peer,
                error and error[: lines.LONGEST],
            )
            self._append((time.time(), level, "", values))

    @property
    def dropped(self) -> int:
        """Records lost so far because the queue was full or writing failed."""
        return self._dropped

    def flush(self, seconds: float = 2.0) -> bool:
        """Wait at most `seconds` until what is queued now has been written; whether it was."""
        deadline = time.monotonic() + seconds
        with self._written:
            while self._queue or self._busy:
                self._work.set()
                rest = deadline - time.monotonic()
                if rest <= 0 or not self._writer.is_alive():
                    return False
                self._written.wait(rest)
        return True

    def close(self, seconds: float = 2.0) -> None:
        """Write what is queued, for at most `seconds`, and end the writer; later records vanish."""
        self._closing.set()
        self._work.set()
        self._writer.join(seconds)

    def _put(self, level: int, msg: str, fields: dict[str, object]) -> None:
        for name, value in fields.items():
            if isinstance(value, str) and len(value) > lines.LONGEST:
                fields[name] = value[: lines.LONGEST + 1]
        self._append((time.time(), level, msg[: lines.LONGEST + 1], fields))

    def _append(self, record: _Record) -> None:
        if len(self._queue) >= self._capacity:
            with self._lock:
                self._dropped += 1
            return
        self._queue.append(record)
        if self._asleep:
            self._asleep = False
            self._work.set()

    def _write_on(self) -> None:
        """The writer thread."""
        while True:
            if not self._queue:
                if self._closing.is_set():
                    return
                self._asleep = True
                if not self._queue and not self._closing.is_set():
                    self._work.wait()
                self._asleep = False
                self._work.clear()
                self._closing.wait(_GATHER)
            self._busy = True
            self._write_slice()
            self._busy = False
            with self._written:
                self._written.notify_all()

    def _write_slice(self) -> None:
        texts: list[str] = []
        while self._queue and len(texts) < _SLICE:
            texts.append(self._line(self._queue.popleft()))
        dropped = self._dropped
        if dropped != self._reported:
            lost: dict[str, object] = {"count": dropped - self._reported}
            texts.append(self._line((time.time(), WARN, "log lines were dropped", lost)))
        if not texts:
            return
        data = ("\n".join(texts) + "\n").encode("utf-8", "backslashreplace")
        if self._write(data):
            self._reported = dropped
        else:
            with self._lock:
                self._dropped += len(texts)

    def _line(self, record: _Record) -> str:
        seconds, level, msg, fields = record
        whole = int(seconds)
        if whole != self._second[0]:
            self._second = (whole, lines.timestamp(whole))
        if isinstance(fields, dict):
            return self._form(self._second[1], level, msg, fields.items())
        return self._access_form(self._second[1], level, fields)

    def _write(self, data: bytes) -> bool:
        """Write everything, however long the descriptor blocks; False when it cannot be written."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # somebody else made the shared descriptor non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll(1000)
            except OSError:
                return False
        return True
