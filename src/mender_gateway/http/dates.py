"""Dates in HTTP fields (RFC 9110 5.6.7): written in one format, read in three."""

import re
import time
from datetime import UTC, datetime

_MONTHS = {
    name: number
    for number, name in enumerate(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)
}
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_NAMES = tuple(name.decode() for name in _MONTHS)

_CLOCK = rb"([0-9]{2}):([0-9]{2}):([0-9]{2})"
_FIXDATE = re.compile(rb"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) " + _CLOCK + rb" GMT")
_RFC850 = re.compile(
    rb"[A-Z][a-z]{5,8}, ([0-9]{2})-([A-Z][a-z]{2})-([0-9]{2}) " + _CLOCK + rb" GMT"
)
_ASCTIME = re.compile(rb"[A-Z][a-z]{2} ([A-Z][a-z]{2}) ([0-9 ][0-9]) " + _CLOCK + rb" ([0-9]{4})")


def parse_date(value: bytes) -> float | None:
    """Unix time of an HTTP-date, or None when `value` is none."""
    if match := _FIXDATE.fullmatch(value):
        day, month, year, *clock = match.groups()
    elif match := _RFC850.fullmatch(value):
        day, month, year, *clock = match.groups()
        # More than 50 years ahead means the century before.
        this_year = time.gmtime().tm_year
        full = this_year - this_year % 100 + int(year)
        year = b"%d" % (full - 100 if full > this_year + 50 else full)
    elif match := _ASCTIME.fullmatch(value):
        month, day, *clock, year = match.groups()
    else:
        return None
    try:
        hour, minute, second = map(int, clock)
        # A leap second is the second before it: datetime knows none.
        moment = datetime(
            int(year), _MONTHS[month], int(day), hour, minute, min(second, 59), tzinfo=UTC
        )
    except (ValueError, KeyError):
        return None
    return moment.timestamp()


def format_date(moment: float) -> bytes:
    """Unix time as IMF-fixdate."""
    year, month, day, hour, minute, second, weekday, *_ = time.gmtime(moment)
    date = f"{_DAYS[weekday]}, {day:02} {_NAMES[month - 1]} {year:04}"
    return f"{date} {hour:02}:{minute:02}:{second:02} GMT".encode()
