"""The time for links: the local clock corrected by what the upstream says.

Small gateways have no battery for their clock and may believe in 1970 until NTP comes; links signed
then would have expired before they are used. The Date of the latest upstream answer corrects it.
"""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

_NOTICEABLE = 300.0
"""Seconds of difference that are worth a warning."""

_EARLIEST, _LATEST = 1_704_067_200.0, 4_102_444_800.0
"""The years 2024 to 2099: a server that is elsewhere does not know the time either."""


class Clock:
    """`warn` is told, in seconds, when the local clock is noticeably off, at each change."""

    def __init__(self, warn: Callable[[float], None]) -> None:
        self._warn = warn
        self._date = b""
        self.offset = 0.0
        """Seconds to add to the local clock."""
        self._warned = False

    def now(self) -> float:
        """Unix time as the upstream sees it."""
        return time.time() + self.offset

    def heard(self, date: bytes) -> None:
        """Take in the Date field of an upstream answer (RFC 9110 6.6.1); rubbish is ignored."""
        if date == self._date:
            return
        self._date = date
        try:
            moment = parsedate_to_datetime(date.decode("latin-1")).timestamp()
        except (ValueError, TypeError, OverflowError):
            return
        if not _EARLIEST <= moment <= _LATEST:
            return
        offset = moment - time.time()
        # Below two seconds the difference is the rounding of Date and the time on the wire.
        self.offset = offset if abs(offset) > 2.0 else 0.0
        noticeable = abs(offset) > _NOTICEABLE
        if noticeable and not self._warned:
            self._warn(offset)
        self._warned = noticeable
