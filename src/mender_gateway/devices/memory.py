"""What was decided for a device's key lately, so that a device in a loop costs the server nothing.

Bounded: of too many entries the oldest goes. Times are the event loop's.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

AUTHORISED_FOR = 60.0
"""Seconds for which an authorised key is not authorised again, whatever the server answers it."""
REJECTED_FOR = 600.0
"""Seconds for which a rejected device is left alone without asking."""
_MOST = 20_000


@dataclass(frozen=True, slots=True)
class Remembered:
    rejected: bool
    since: float
    until: float


class Memory:
    """Keys are identity and public key."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._entries: OrderedDict[Hashable, Remembered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def recall(self, key: Hashable, now: float) -> Remembered | None:
        entry = self._entries.get(key)
        if entry is not None and now >= entry.until:
            del self._entries[key]
            return None
        return entry

    def authorised(self, key: Hashable, now: float) -> None:
        self._put(key, Remembered(False, now, now + AUTHORISED_FOR))

    def rejected(self, key: Hashable, now: float) -> None:
        self._put(key, Remembered(True, now, now + REJECTED_FOR))

    def _put(self, key: Hashable, entry: Remembered) -> None:
        self._entries.pop(key, None)
        while len(self._entries) >= self._most:
            self._entries.popitem(last=False)
        self._entries[key] = entry
