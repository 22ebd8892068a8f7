"""What a server of the demo saw: every request in the order of arrival, and what became of it.

The log is written by the server's loop and read from any thread; `wait_for` lets a test wait for
something to happen instead of sleeping. It holds the latest exchanges up to a bound.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import parse_qsl

LOGGED_EXCHANGES = 50_000
LOGGED_BODY = 1024 * 1024
"""Bytes of a request body that are kept; `body_length` counts all."""


@dataclass(slots=True)
class Exchange:
    """One request as it arrived, and its answer as far as it got."""

    sequence: int
    """Order of arrival at this server, from 0."""
    connection: int
    """Which connection of this server, from 0."""
    peer: tuple[str, int]
    method: str
    target: str
    """As received: nothing decoded."""
    version: str
    headers: tuple[tuple[str, str], ...]
    """In order, names in the case received."""
    tls_version: str | None = None
    body: bytes = b""
    body_length: int = 0
    body_complete: bool = False
    status: int | None = None
    """Of the answer, as soon as its head is sent."""
    sent: int = 0
    """Bytes of the answer's body handed to the socket."""
    done: bool = False
    """The exchange is over; `complete` says how."""
    complete: bool = False
    """The whole answer was sent."""
    started: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """Decoded; of a repeated name the last value."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    def header(self, name: str) -> str | None:
        """The value of the first such field, whatever its case."""
        name = name.lower()
        return next((value for key, value in self.headers if key.lower() == name), None)

    def matches(self, pattern: str) -> bool:
        """Whether `pattern` fits: shell wildcards over "METHOD path", or over the path alone."""
        words = pattern.split(" ", 1)
        if len(words) == 1:
            return fnmatchcase(self.path, pattern)
        return fnmatchcase(self.method, words[0]) and fnmatchcase(self.path, words[1])


class ExchangeLog:
    """The exchanges of one server; appended by its loop, read from anywhere."""

    def __init__(self, bound: int = LOGGED_EXCHANGES) -> None:
        self._exchanges: deque[Exchange] = deque(maxlen=bound)
        self._changed = threading.Condition()

    def add(self, exchange: Exchange) -> None:
        with self._changed:
            self._exchanges.append(exchange)
            self._changed.notify_all()

    def changed(self) -> None:
        """Says that something a waiter may look at has changed."""
        with self._changed:
            self._changed.notify_all()

    def matching(self, pattern: str = "*") -> list[Exchange]:
        """Those that fit `pattern` (`Exchange.matches`), in order of arrival."""
        with self._changed:
            found = list(self._exchanges)
        return [exchange for exchange in found if exchange.matches(pattern)]

    def clear(self) -> None:
        with self._changed:
            self._exchanges.clear()

    def wait_for(self, predicate: Callable[[], object], timeout: float) -> None:
        """Blocks the calling thread until `predicate()` is true; `TimeoutError` after `timeout` s.

        The predicate is evaluated in the calling thread, at every change and at least every 50 ms.
        """
        deadline = time.monotonic() + timeout
        while not predicate():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"nothing of the kind happened within {timeout} s")
            with self._changed:
                self._changed.wait(min(left, 0.05))
