"""The way from other threads into a server's event loop.

Everything a server of the demo owns belongs to its loop; methods marked `on_loop` may be called
from any thread all the same: outside the loop they hand themselves over and wait for the outcome.
"""

import asyncio
import concurrent.futures
import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

CALL_DEADLINE = 30.0
"""Seconds that a caller in another thread waits for the loop to serve it."""


class HasLoop(Protocol):
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...


S = TypeVar("S", bound=HasLoop)


def call_on(loop: asyncio.AbstractEventLoop, function: Callable[[], R]) -> R:
    """Runs `function` on `loop` and returns its result, from any thread; blocks outside the loop.

    Raises what the function raises, or `TimeoutError` when the loop does not serve it in time.
    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        return function()
    outcome: concurrent.futures.Future[R] = concurrent.futures.Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    loop.call_soon_threadsafe(run)
    return outcome.result(CALL_DEADLINE)


def on_loop(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Makes a method callable from any thread: it runs on its object's `loop`."""

    @functools.wraps(method)
    def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return call_on(self.loop, lambda: method(self, *args, **kwargs))

    return wrapper
