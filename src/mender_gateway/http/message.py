"""Heads of HTTP/1.1 messages as values, and how a body is framed."""

import msgspec

type_of_field = tuple[bytes, bytes]

type_of_fields = list[type_of_field]
"""Header fields in wire order, names with their case, values without surrounding blanks."""

CHUNKED = -1
UNTIL_CLOSE = -2
"""`framing` of a message: one of these, or the body's length in bytes (0: no body)."""


class Request(msgspec.Struct):
    """A request's head (RFC 9112 3); `version` is 10 or 11."""

    method: bytes
    target: bytes
    version: int
    fields: type_of_fields
    index: dict[bytes, bytes]
    """Lower-case name to value; the last one of repeated fields."""
    framing: int
    keep_alive: bool
    upgrade: bytes = b""
    """Value of Upgrade where Connection names it, else empty."""
    expects: bool = False
    """Whether the client waits for 100 (Continue) before it sends the body."""


class Answer(msgspec.Struct):
    """A response's head (RFC 9112 4)."""

    status: int
    reason: bytes
    version: int
    fields: type_of_fields
    index: dict[bytes, bytes]
    framing: int
    keep_alive: bool


def joined(start: bytes, fields: type_of_fields) -> bytes:
    """A head from its start line to the empty line that ends it."""
    return b"\r\n".join((start, *map(b": ".join, fields), b"", b""))
