"""Which bytes of an artifact a request gets: ranges and validators as pure decisions.

RFC 9110 sections 13 and 14. One range is served as 206; several, or one that cannot be read, are
ignored and the whole artifact is sent, which the RFC allows and no device asks for. Devices resume
with ``bytes=N-`` or ``bytes=N-M`` and need exactly that start and a numeric total.
"""

import re

import msgspec

from mender_gateway import errors
from mender_gateway.http.dates import parse_date
from mender_gateway.http.message import type_of_fields

_RANGE = re.compile(rb"bytes=[ \t]*+([0-9]*+)-([0-9]*+)", re.IGNORECASE)
_CONTENT_RANGE = re.compile(rb"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})", re.IGNORECASE)
_UNSATISFIED = re.compile(rb"bytes \*/([0-9]{1,19})", re.IGNORECASE)
_TAG = re.compile(rb'(?:W/)?("[^"]*+")')

_CONDITIONS = frozenset(
    (
        b"range",
        b"if-range",
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
    )
)


class Full(msgspec.Struct, frozen=True, gc=False):
    """200 with the whole artifact."""


class Partial(msgspec.Struct, frozen=True, gc=False):
    """206 with the bytes from `start` up to, not including, `end`."""

    start: int
    end: int


class NotModified(msgspec.Struct, frozen=True, gc=False):
    """304."""


class PreconditionFailed(msgspec.Struct, frozen=True, gc=False):
    """412."""


class Unsatisfiable(msgspec.Struct, frozen=True, gc=False):
    """416 with ``Content-Range: bytes */length``."""


type_of_choice = Full | Partial | NotModified | PreconditionFailed | Unsatisfiable

FULL = Full()
NOT_MODIFIED = NotModified()
PRECONDITION_FAILED = PreconditionFailed()
UNSATISFIABLE = Unsatisfiable()


def parse_range(value: bytes | None, length: int) -> tuple[int, int] | None:
    """First byte and the one after the last that a Range asks for, of `length` bytes.

    None: no range, several, or none that can be read; the whole is to be sent. A range of an empty
    artifact is None too: 206 cannot say it. Raises errors.RangeNotSatisfiable when the range begins
    behind the end.
    """
    match = _RANGE.fullmatch(value) if value is not None else None
    if match is None or length == 0:
        return None
    first, last = match.groups()
    if first:
        start = _number(first)
        if last and _number(last) < start:
            return None
        if start >= length:
            raise errors.RangeNotSatisfiable(length)
        end = _number(last) + 1 if last else length
        return start, min(end, length)
    if not last:
        return None
    suffix = _number(last)
    if suffix == 0:
        raise errors.RangeNotSatisfiable(length)
    return max(length - suffix, 0), length


def resumption(fields: type_of_fields) -> tuple[int | None, bool]:
    """(first byte asked for, whether the request asks for exactly one range).

    What a link past its end is judged by; the length of the artifact need not be known. The first
    byte is None for a range counted from the end.
    """
    found = [content for name, content in fields if name.lower() == b"range"]
    match = _RANGE.fullmatch(found[0]) if len(found) == 1 else None
    if match is None:
        return None, False
    first, last = match.groups()
    if not first:
        return None, bool(last)
    start = _number(first)
    if last and _number(last) < start:
        return None, False
    return start, True


def last_wanted(fields: type_of_fields) -> int | None:
    """The end, exclusive, of the one range that a request asks for, where it names one."""
    found = [content for name, content in fields if name.lower() == b"range"]
    match = _RANGE.fullmatch(found[0]) if len(found) == 1 else None
    if match is None or not all(match.groups()):
        return None
    first, last = map(_number, match.groups())
    return last + 1 if first <= last else None


def content_range(start: int, end: int, total: int) -> bytes:
    """The value of Content-Range for the bytes from `start` up to, not including, `end`."""
    return b"bytes %d-%d/%d" % (start, end - 1, total)


def parse_content_range(value: bytes | None) -> tuple[int, int, int]:
    """(first byte, the one after the last, total) of an origin's 206.

    Raises errors.BadGateway when it is missing, malformed, contradicts itself or has no total.
    """
    match = _CONTENT_RANGE.fullmatch(value) if value is not None else None
    if match is not None:
        first, last, total = map(int, match.groups())
        if first <= last < total:
            return first, last + 1, total
    raise errors.BadGateway("the storage sent a partial answer without a usable Content-Range")


def unsatisfied_total(value: bytes | None) -> int | None:
    """The total that an origin's 416 names in its Content-Range, or None."""
    match = _UNSATISFIED.fullmatch(value) if value is not None else None
    return int(match[1]) if match else None


def choose(
    fields: type_of_fields,
    *,
    etag: bytes | None,
    last_modified: bytes | None,
    length: int,
    method: bytes,
) -> type_of_choice:
    """What a GET or HEAD gets, in the order of RFC 9110 13.2.2.

    `etag` and `last_modified` are the values of those fields as they are served, `length` the
    artifact's bytes.
    """
    asked: dict[bytes, list[bytes]] = {}
    for name, content in fields:
        key = name.lower()
        if key in _CONDITIONS:
            asked.setdefault(key, []).append(content)
    if not asked:
        return FULL
    if (tags := asked.get(b"if-match")) is not None:
        if not _matches(tags, etag, strong=True):
            return PRECONDITION_FAILED
    elif _since(asked.get(b"if-unmodified-since"), last_modified) is False:
        return PRECONDITION_FAILED
    if (tags := asked.get(b"if-none-match")) is not None:
        if _matches(tags, etag, strong=False):
            return NOT_MODIFIED
    elif _since(asked.get(b"if-modified-since"), last_modified) is True:
        return NOT_MODIFIED
    ranges = asked.get(b"range", ())
    if method != b"GET" or len(ranges) != 1:
        return FULL
    if not _same(asked.get(b"if-range"), etag, last_modified):
        return FULL
    try:
        span = parse_range(ranges[0], length)
    except errors.RangeNotSatisfiable:
        return UNSATISFIABLE
    return FULL if span is None else Partial(*span)


def _number(digits: bytes) -> int:
    """The number, or one beyond every length for what has more digits than any."""
    digits = digits.lstrip(b"0")
    return int(digits or b"0") if len(digits) < 20 else 2**63


def _matches(conditions: list[bytes], etag: bytes | None, *, strong: bool) -> bool:
    """If-Match and If-None-Match; the artifact exists, so ``*`` holds (RFC 9110 13.1.1, 13.1.2)."""
    joined = b",".join(conditions).strip(b" \t")
    if joined == b"*":
        return True
    if etag is None or (strong and etag.startswith(b"W/")):
        return False
    opaque = etag.removeprefix(b"W/")
    return any(
        match[1] == opaque and not (strong and match[0].startswith(b"W/"))
        for match in _TAG.finditer(joined)
    )


def _since(conditions: list[bytes] | None, last_modified: bytes | None) -> bool | None:
    """Whether the artifact is unmodified since then; None when that cannot be told."""
    if conditions is None or len(conditions) != 1 or last_modified is None:
        return None
    then, modified = parse_date(conditions[0]), parse_date(last_modified)
    if then is None or modified is None:
        return None
    return modified <= then


def _same(conditions: list[bytes] | None, etag: bytes | None, last_modified: bytes | None) -> bool:
    """If-Range (RFC 9110 13.1.5): a strong entity tag, or exactly the same date."""
    if conditions is None:
        return True
    if len(conditions) != 1:
        return False
    condition = conditions[0]
    if condition.startswith((b'"', b"W/")):
        return condition == etag and not condition.startswith(b"W/")
    date = parse_date(condition)
    return date is not None and last_modified is not None and date == parse_date(last_modified)
