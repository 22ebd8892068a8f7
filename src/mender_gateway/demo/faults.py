"""Misbehaviour on demand: what a test scripts a server of the demo to do to chosen requests.

A `Behaviour` is a plan for one exchange: wait, drop the connection, change the request or the
answer, cut or stall the body after so many bytes. A `Script` holds rules in order; the first that
fits a request and has uses left applies. `Gate` makes waiting deterministic: the server says when
it has arrived there, the test says when it may go on.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal

from mender_gateway.demo.answers import Answer
from mender_gateway.demo.exchanges import Exchange

Headers = Sequence[tuple[str, str]]


class Drop(Enum):
    """When a connection is dropped without an answer."""

    BEFORE_READING = "after the head, the body unread"
    AFTER_READING = "after the whole request, before it is processed"
    AFTER_PROCESSING = "after it was processed, before the answer"


class Gate:
    """A point that a server reaches and does not pass before `release`; for any thread."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._lock = threading.Lock()
        self._open = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def release(self) -> None:
        """Lets through everybody who waits and everybody who will come."""
        with self._lock:
            self._open = True
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    async def passed(self) -> None:
        """Waits, on the server's loop, until the gate is open."""
        event = asyncio.Event()
        with self._lock:
            if not self._open:
                self._waiting.append((asyncio.get_running_loop(), event))
            else:
                event.set()
        self.reached.set()
        await event.wait()

    def wait_reached(self, timeout: float) -> None:
        """Blocks until the server stands at the gate; `TimeoutError` after `timeout` seconds."""
        if not self.reached.wait(timeout):
            raise TimeoutError(f"the server did not reach the gate within {timeout} s")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The plan for one exchange. The default does nothing."""

    delay: float = 0.0
    """Seconds between the whole request and the answer's head."""
    gate: Gate | None = None
    """To be passed at the same place."""
    drop: Drop | None = None
    answer: Callable[[], Answer] | None = None
    """Given instead of processing the request."""
    hide_headers: tuple[str, ...] = ()
    """Request fields (lower case) that the server pretends not to have seen."""
    change: Callable[[Answer], Answer] | None = None
    """Applied to the answer before it is sent."""
    cut_after: int | None = None
    """Bytes of the answer's body after which the connection ends."""
    reset: bool = False
    """Cut and drop by RST instead of FIN."""
    stall_after: int | None = None
    """Bytes of the body after which `stall` must be passed."""
    stall: Gate | None = None
    bits_per_second: float | None = None
    """The answer's body drips at this rate, past the uplink's own."""

    def with_(self, **changes: object) -> "Behaviour":
        """A copy that also does `changes`."""
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(slots=True)
class Rule:
    """A behaviour for the requests that fit; `times` None means every time."""

    fits: Callable[[Exchange], bool]
    behaviour: Behaviour
    times: int | None = 1
    used: int = 0

    def cancel(self) -> None:
        """Applies to no further request."""
        self.times = self.used


@dataclass(slots=True)
class Script:
    """Rules in the order they were added; for any thread."""

    rules: list[Rule] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(
        self,
        matcher: str | Callable[[Exchange], bool],
        behaviour: Behaviour,
        times: int | None = 1,
    ) -> Rule:
        """A pattern of `Exchange.matches`, or any predicate over the request's head."""
        fits = matcher if callable(matcher) else lambda exchange: exchange.matches(matcher)
        rule = Rule(fits, behaviour, times)
        with self.lock:
            self.rules.append(rule)
        return rule

    def clear(self) -> None:
        with self.lock:
            self.rules.clear()

    def behaviour_for(self, exchange: Exchange) -> Behaviour:
        """That of the first rule that fits, which is used once; else the harmless default."""
        with self.lock:
            for rule in self.rules:
                if (rule.times is None or rule.used < rule.times) and rule.fits(exchange):
                    rule.used += 1
                    return rule.behaviour
        return Behaviour()


def answer(status: int, headers: Headers = (), body: bytes = b"") -> Behaviour:
    """A given answer; Content-Length is added unless `headers` say how the body ends."""
    named = {name.lower() for name, _ in headers}
    fields = list(headers)
    if not named & {"content-length", "transfer-encoding"} and status != 204:
        fields.append(("Content-Length", str(len(body))))
    return Behaviour(answer=lambda: Answer(status, list(fields), body))


def delayed(seconds: float) -> Behaviour:
    return Behaviour(delay=seconds)


def held(gate: Gate) -> Behaviour:
    """No answer before the gate is released."""
    return Behaviour(gate=gate)


def dropped(when: Drop = Drop.AFTER_READING, reset: bool = False) -> Behaviour:
    return Behaviour(drop=when, reset=reset)


def cut(after: int, reset: bool = False) -> Behaviour:
    """The connection ends after so many bytes of the body (FIN, or RST)."""
    return Behaviour(cut_after=after, reset=reset)


def stalled(after: int, gate: Gate) -> Behaviour:
    """Silence after so many bytes of the body until the gate is released."""
    return Behaviour(stall_after=after, stall=gate)


def slow(bits_per_second: float) -> Behaviour:
    return Behaviour(bits_per_second=bits_per_second)


def changed(change: Callable[[Answer], Answer]) -> Behaviour:
    return Behaviour(change=change)


def with_header(name: str, value: str | None) -> Behaviour:
    """The answer's field `name` replaced, added, or (None) removed."""
    return changed(lambda given: given.with_header(name, value))


def redirect(location: str, status: int = 302) -> Behaviour:
    return answer(status, [("Location", location)])


def declared_length(length: int) -> Behaviour:
    """Content-Length says `length`; the body stays as long as it is and the connection ends."""
    return with_header("Content-Length", str(length))


def without_length(framing: Literal["close", "chunked"] = "close") -> Behaviour:
    """No Content-Length: the body ends with the connection, or is chunked."""
    if framing == "close":
        return with_header("Content-Length", None)
    return changed(
        lambda given: given.with_header("Content-Length", None).with_header(
            "Transfer-Encoding", "chunked"
        )
    )


def ignoring_range() -> Behaviour:
    """A server that knows no ranges: 200 and the whole body."""
    return Behaviour(hide_headers=("range", "if-range"))


def expired() -> Behaviour:
    """What a store says to a link that is too old."""
    body = (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code>'
        b"<Message>Request has expired</Message></Error>"
    )
    return answer(403, [("Content-Type", "application/xml; charset=utf-8")], body)
