"""The disk's trouble: told once, left alone for a while, over when something was written again.

The pause is short at first, because each device that comes meanwhile costs the uplink an artifact
of its own, and doubles while the trouble goes on.
"""

import asyncio
from collections.abc import Callable

from mender_gateway.cache.retry import pause
from mender_gateway.cache.settings import CacheSettings, Event, Kind


class Trouble:
    """One per cache; runs on the event loop."""

    def __init__(self, path: str, settings: CacheSettings, report: Callable[[Event], None]) -> None:
        self._path = path
        self._settings = settings
        self._report = report
        self._until = 0.0
        self._times = 0
        """How often the disk has failed, each time after it was left alone, since it worked."""
        self.text: str | None = None
        """Why the disk is not used at the moment, None when it is."""

    @property
    def resting(self) -> bool:
        """Whether nothing new is to be stored yet."""
        return asyncio.get_running_loop().time() < self._until

    def note(self, text: str) -> None:
        """The disk failed. Reported once until it heals."""
        now, settings = asyncio.get_running_loop().time(), self._settings
        if now >= self._until:  # not one more of those that failed together
            self._times += 1
            longest = settings.longest_trouble_pause
            self._until = now + pause(self._times, settings.trouble_pause, longest)
        first, self.text = self.text is None, text
        if first:
            self._report(Event(Kind.TROUBLE, f"{self._path}: {text}"))

    def over(self) -> None:
        """The disk has taken something."""
        if self.text is not None:
            self.text = None
            self._until = 0.0
            self._times = 0
            self._report(Event(Kind.HEALED, f"{self._path} is in use again"))
