"""One bound on what all downloads from storage together take of the uplink.

Every piece that a download has read books its time on one common clock, and its download sleeps
until that time has come. Pieces are small and equal, and each download books one at a time, so that
those at work at once take turns and get alike. While a download sleeps its socket is not read; the
kernel's small receive buffer is all that storage can send ahead.
"""

import asyncio
from collections.abc import Awaitable, Callable

_TURNS = 20
"""Pieces per second at the configured rate."""
_SMALLEST = 512
_LARGEST = 256 * 1024
_SAVED = 0.1
"""Seconds of idle time that may be made up for."""


class RateLimit:
    """Runs on one event loop; `rate` in bytes per second."""

    def __init__(
        self,
        rate: int,
        time: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._time = time or asyncio.get_running_loop().time
        self._sleep = sleep
        self._booked = self._time() - _SAVED
        """Until when the uplink is taken."""
        self.piece = max(_SMALLEST, min(_LARGEST, rate // _TURNS))
        """How many bytes a download should read at a time."""

    async def spend(self, size: int) -> None:
        """Books `size` bytes that have been read and waits until they were due."""
        now = self._time()
        self._booked = max(self._booked, now - _SAVED) + size / self._rate
        wait = self._booked - now
        if wait > 0:
            await self._sleep(wait)
