"""The slow line between the site and the world, shared by all downloads.

A token bucket lets bytes through in small pieces, first come first served, so that concurrent
transfers share the rate fairly; its burst is small, so that a figure in bits per second is true
within a tenth of a second. It also counts: `bytes_passed` is what crossed the line.
"""

import asyncio
import time

PIECE = 16 * 1024
"""Bytes taken at once: the unit of fairness between transfers."""

BURST = 64 * 1024
"""Most bytes that pass at once after an idle time."""


class Uplink:
    """A line of `bits_per_second` (None: unlimited). Lives on one event loop."""

    def __init__(self, bits_per_second: float | None = None) -> None:
        if bits_per_second is not None and bits_per_second <= 0:
            raise ValueError(f"an uplink needs a positive rate, not {bits_per_second} bit/s")
        self._rate = None if bits_per_second is None else bits_per_second / 8
        self._tokens = float(BURST)
        self._filled = time.monotonic()
        self._turn = asyncio.Lock()
        self.bytes_passed = 0

    @property
    def bytes_per_second(self) -> float | None:
        return self._rate

    async def take(self, size: int) -> None:
        """Waits until `size` bytes may pass and counts them; callers are served in order.

        `size` is at most `PIECE`, so that nobody holds the line for long.
        """
        if self._rate is not None:
            async with self._turn:
                await self._wait_for(min(size, BURST), self._rate)
        self.bytes_passed += size

    async def _wait_for(self, size: int, rate: float) -> None:
        self._refill(rate)
        while self._tokens < size:
            await asyncio.sleep((size - self._tokens) / rate)
            self._refill(rate)
        self._tokens -= size

    def _refill(self, rate: float) -> None:
        now = time.monotonic()
        self._tokens = min(float(BURST), self._tokens + (now - self._filled) * rate)
        self._filled = now
