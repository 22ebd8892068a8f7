"""Texts as the server's language writes them: JSON, times, identifiers, decoding errors.

The real services are written in Go; their JSON escapes `&`, `<` and `>`, their times drop trailing
zeros, and clients see the texts of its decoder's errors.
"""

import json
import math
from datetime import UTC, datetime
from typing import Any


def to_json(value: object) -> bytes:
    """Compact, members in the given order, HTML characters escaped (encoding/json's default)."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "&<>":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def from_json(body: bytes) -> Any:
    """The decoded value; `ValueError` with the decoder's words otherwise."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(decoding_error(body, error)) from None


def decoding_error(body: bytes, error: Exception) -> str:
    """The words of a streaming decoder for a body that is no JSON."""
    if not body.strip():
        return "EOF"
    if isinstance(error, json.JSONDecodeError) and error.pos < len(error.doc):
        return f"invalid character {error.doc[error.pos]!r} looking for beginning of value"
    return "unexpected EOF"


def kind_of(value: object) -> str:
    """How the decoder names a JSON value's type in an error."""
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def timestamp(seconds: float, digits: int = 3) -> str:
    """RFC 3339 in UTC with at most `digits` fraction digits, trailing zeros dropped."""
    whole = math.floor(seconds)
    carry, part = divmod(round((seconds - whole) * 10**digits), 10**digits)
    whole, fraction = whole + carry, part * 10 ** (9 - digits)
    text = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    decimals = f"{fraction:09d}".rstrip("0")
    return f"{text}.{decimals}Z" if decimals else f"{text}Z"


def parse_timestamp(text: object) -> datetime:
    """An RFC 3339 time; `ValueError` with the decoder's words otherwise."""
    if isinstance(text, str) and "T" in text:
        try:
            parsed = datetime.fromisoformat(text)
        except ValueError:
            pass
        else:
            if parsed.tzinfo is not None:
                return parsed
    word = text if isinstance(text, str) else ""
    shown = json.dumps(word)
    raise ValueError(
        f'parsing time {shown} as "2006-01-02T15:04:05Z07:00": cannot parse {shown} as "2006"'
    )
