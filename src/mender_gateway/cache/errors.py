"""What the cache says when it cannot do its work; callers decide what a device is told.

`Bypass` and `FillBroken` are the two answers that a caller must handle: go on without the cache, or
end the answer it has begun. The rest passes between the rooms inside.
"""


class Bypass(Exception):
    """This artifact cannot be cached now: the caller streams it for itself.

    `reason` is one of a bounded set (for metrics): room, disk, lock, busy, closed.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class FillBroken(Exception):
    """A fill ended before the byte that a reader waits for.

    resumable: the bytes served so far are right and the object is the same, so that the caller may
    go on by itself from its own offset; otherwise it must abort. changed: the origin has another
    object now; a caller whose headers are not out may acquire again.
    """

    def __init__(self, text: str, *, resumable: bool, changed: bool = False) -> None:
        super().__init__(text)
        self.resumable = resumable
        self.changed = changed

    def again(self) -> "FillBroken":
        """A fresh exception of the same meaning, for the next of many readers."""
        copy = FillBroken(str(self), resumable=self.resumable, changed=self.changed)
        copy.__cause__ = self.__cause__
        return copy


class OriginRefused(Exception):
    """Raised by `Origin.open`: the origin will not give the object (403, 404, …)."""

    def __init__(self, original: Exception) -> None:
        super().__init__(str(original))
        self.original = original


class VerificationFailed(Exception):
    """Raised by a `Verifier`: what was received must not be kept or served to its end."""


class DiskTrouble(Exception):
    """A disk call failed or did not return in time; the cache pauses and heals later."""


class NoRoom(Exception):
    """Eviction cannot make room for the declared length; nothing was evicted.

    hopeless: there would not be enough room if nothing were in use, either.
    """

    def __init__(self, text: str, *, hopeless: bool) -> None:
        super().__init__(text)
        self.hopeless = hopeless


class LockBusy(Exception):
    """The directory lock was not free within its deadline."""


class PartialLost(Exception):
    """The partial directory is no longer the one we locked (removed or replaced by hand)."""


class SourceBroken(Exception):
    """The origin's download ended before its last byte, or did not open."""


class GaveUp(Exception):
    """No byte from the origin for too long."""


class Unresumable(Exception):
    """The download broke, and nothing identifies the object's version."""


class Changed(Exception):
    """The origin has another object now."""
