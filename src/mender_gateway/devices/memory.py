"""What was decided for a device's key lately, so that a device in a loop costs the server nothing.

Bounded: of too many entries the oldest goes. Times are the event loop's.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum


class Decision(Enum):
    """Its value is for how many seconds it is remembered."""

    AUTHORISED = 60.0
    """Not authorised again, whatever the server answers it."""
    REFUSED = 59.0
    """The server would not authorise it: not tried again so soon."""
    REJECTED = 600.0
    """By an administrator: left alone without asking."""


_MOST = 20_000


@dataclass(frozen=True, slots=True)
class Remembered:
    decision: Decision
    since: float
    until: float


class Memory:
    """Keys stand for identity and public key, and are small."""

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

    def remember(self, key: Hashable, decision: Decision, now: float) -> None:
        self._entries.pop(key, None)
        while len(self._entries) >= self._most:
            self._entries.popitem(last=False)
        self._entries[key] = Remembered(decision, now, now + decision.value)
