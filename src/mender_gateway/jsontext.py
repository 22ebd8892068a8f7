"""JSON as text: where the values are, so that a few can be changed and all else stays as it was.

Python's own C scanner does the reading, one value per call, and says where each value ends; no
character is read twice. Objects come out as tuples of (key, value) pairs, so that repeated members
are seen, and numbers as they are written. Offsets count characters of the decoded text. Whoever
reads the text after us may do so as Go does: member names without regard to case, the last of
repeated ones in force. So names are compared `folded`, and all members of one name are found.
"""

import json.decoder as decoder
import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

type_of_json = Any
"""str, Number, bool, None, list, or tuple of (key, value) pairs for an object."""


class Number(str):
    """A number, as it is written."""

    __slots__ = ()


class TooDeep(ValueError):
    """It may be JSON, but is nested more deeply than can be read here."""


class Value(NamedTuple):
    """A value and where it stands: its text is ``text[start:end]``.

    `name` is the folded name of a member, empty for an element of an array.
    """

    name: str
    value: type_of_json
    start: int
    end: int


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_json: Any = decoder  # the two names below are not in the type stubs
_scan: Callable[[str, int], tuple[type_of_json, int]] = _json.JSONDecoder(
    object_pairs_hook=tuple, parse_int=Number, parse_float=Number, parse_constant=_no_constant
).scan_once
_scan_string: Callable[[str, int], tuple[str, int]] = _json.scanstring

_BLANK = frozenset(" \t\n\r")
_blanks = re.compile(r"[ \t\n\r]*+")


def members(text: str, path: tuple[str, ...], names: AbstractSet[str]) -> list[Value]:
    """All members called one of `names` in the objects that lie along `path`.

    `path` and `names` are folded names; the JSON text is an object, and what lies along the path
    are objects. Raises ValueError when that or JSON itself is not given.
    """
    found: list[Value] = []
    end = _object(text, _skip(text, 0), path, names, found)
    _no_more(text, end)
    return found


def elements(text: str, *, whole: bool = True) -> tuple[int, list[Value]]:
    """Where the first element could begin, and all elements of the array that `text` is.

    Without `whole` anything may follow the array: readers of streams stop at its end. Raises
    ValueError when it is no JSON array.
    """
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        raise ValueError("not an array")
    begin = at + 1
    at = _skip(text, begin)
    found: list[Value] = []
    if text[at : at + 1] == "]":
        if whole:
            _no_more(text, at + 1)
        return begin, found
    while True:
        value, end = _value(text, at)
        found.append(Value("", value, at, end))
        at = _skip(text, end)
        mark = text[at : at + 1]
        if mark == "]":
            if whole:
                _no_more(text, at + 1)
            return begin, found
        if mark != ",":
            raise ValueError("a comma is missing")
        at = _skip(text, at + 1)


def folded(key: str) -> str:
    """`key` as Go's encoding/json compares it: without case, the long s and the Kelvin sign too."""
    return key.casefold()


def _object(
    text: str, at: int, path: tuple[str, ...], names: AbstractSet[str], found: list[Value]
) -> int:
    """Read the object at `at`, gather into `found`, return its end."""
    if text[at : at + 1] != "{":
        raise ValueError("no object where one belongs")
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        return at + 1
    while True:
        if text[at : at + 1] != '"':
            raise ValueError("a member has no name")
        key, at = _scan_string(text, at + 1)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise ValueError("a colon is missing")
        begin = _skip(text, at + 1)
        name = folded(key)
        if path and name == path[0]:
            at = _object(text, begin, path[1:], names, found)
        else:
            value, at = _value(text, begin)
            if not path and name in names:
                found.append(Value(name, value, begin, at))
        at = _skip(text, at)
        mark = text[at : at + 1]
        if mark == "}":
            return at + 1
        if mark != ",":
            raise ValueError("a comma is missing")
        at = _skip(text, at + 1)


def _value(text: str, at: int) -> tuple[type_of_json, int]:
    try:
        return _scan(text, at)
    except StopIteration:
        raise ValueError("a value is missing") from None
    except RecursionError:
        raise TooDeep("nested too deeply") from None


def _skip(text: str, at: int) -> int:
    if text[at : at + 1] in _BLANK and (match := _blanks.match(text, at)):
        return match.end()
    return at


def _no_more(text: str, at: int) -> None:
    if _skip(text, at) != len(text):
        raise ValueError("more than one value")
