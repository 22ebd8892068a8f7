"""When a broken download, or a disk in trouble, is tried again: exponential backoff, pure."""

FIRST = 0.25
LONGEST = 30.0


def delay(attempt: int, luck: float) -> float:
    """Seconds to wait before try number `attempt` (from 0) after a failure.

    Doubles from 0.25 s up to 30 s; `luck` in [0, 1) takes up to half of it away, so that gateways
    that lost the same uplink do not come back in step.
    """
    return float(min(LONGEST, FIRST * 2 ** min(attempt, 16)) * (1.0 - luck / 2))


def pause(troubles: int, first: float, longest: float) -> float:
    """Seconds to leave a disk alone that has been in trouble `troubles` times (from 1) on end.

    Short at first: each device that comes meanwhile costs the uplink an artifact of its own.
    """
    return float(max(first, min(longest, first * 2 ** min(troubles - 1, 16))))
