"""The way back to the cache for an answer that streams past it.

Devices that came while the disk was in trouble, or while there was no room, each take an artifact
over the uplink. Once somebody's later request has brought the object into the cache they all go on
from there, at the byte where they stand, so that the trouble does not outlast its cause by as many
downloads as there are devices.
"""

import asyncio

from mender_gateway.cache.cache import Cache
from mender_gateway.cache.entry import Reader
from mender_gateway.cache.origin import Attributes

_LOOK = 2.0
"""Seconds between two looks; a fill must have got on between them."""


class WayBack:
    """One per answer; `attributes` are those that the device was told."""

    def __init__(self, cache: Cache, object_id: str, attributes: Attributes) -> None:
        self._cache = cache
        self._object_id = object_id
        self._attributes = attributes
        self._next_look = asyncio.get_running_loop().time() + _LOOK
        self._seen: int | None = None

    def open(self) -> Reader | None:
        """A reader on the same object when it is in the cache or arriving; never waits.

        Nobody is sent to a fill that stands still: what streams past it may be all there is.
        """
        now = asyncio.get_running_loop().time()
        if now < self._next_look or self._attributes.validator is None:
            return None
        self._next_look = now + _LOOK
        entry = self._cache.entry(self._object_id)
        if entry is None or entry.attributes != self._attributes:
            self._seen = None
            return None
        before, self._seen = self._seen, entry.mark
        if entry.finished or (before is not None and entry.mark > before):
            return self._cache.acquire_open(self._object_id)
        return None
