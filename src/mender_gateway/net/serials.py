"""The blacklist: a file of hexadecimal serial numbers, read as liberally as people write them.

A line that cannot be read is reported with its number and never stops the rest: one slip of the
pen must not let every revoked device in.
"""

import re
from dataclasses import dataclass

_PREFIX = re.compile(r"(?:serial(?:[ _-]?number)?[ \t]*[:=])?[ \t]*(?:0x)?", re.IGNORECASE)
_BETWEEN = str.maketrans("", "", ": \t-")
_LONGEST = 64
"""Hexadecimal digits; a serial number has 40 at most (RFC 5280 4.1.2.2)."""
_MOST_REPORTED = 20


@dataclass(frozen=True, slots=True)
class Blacklist:
    serials: frozenset[int] = frozenset()
    unreadable: tuple[int, ...] = ()
    """Numbers of the first lines that are no serial number."""


def parse_blacklist(data: bytes) -> Blacklist:
    """Serial numbers, one a line: any case, `0x`, colons, blanks, leading zeros, `serial=` as
    openssl prints it; `#` begins a comment.
    """
    serials: set[int] = set()
    unreadable: list[int] = []
    text = data.decode("utf-8-sig", "replace")
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        serial = parse_serial(entry)
        if serial is not None:
            serials.add(serial)
        elif len(unreadable) < _MOST_REPORTED:
            unreadable.append(number)
    return Blacklist(frozenset(serials), tuple(unreadable))


def parse_serial(entry: str) -> int | None:
    """The number that one entry stands for, or None."""
    digits = entry[_PREFIX.match(entry).end() :].translate(_BETWEEN)  # type: ignore[union-attr]
    if not re.fullmatch(r"[0-9A-Fa-f]+", digits):
        return None
    digits = digits.lstrip("0") or "0"
    return int(digits, 16) if len(digits) <= _LONGEST else None
