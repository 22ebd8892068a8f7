"""A request target read for routing; what is forwarded are always the raw bytes.

`normalise` reads a target as RFC 3986 6.2.2 says. `reads_as_internal` is for the refusal of the
internal APIs and more suspicious: it asks whether *any* server behind the gateway could come to
``/api/internal`` by decoding again, by taking ``\\``, ``%2F`` or ``%5C`` for a slash, or by cutting
``;parameters`` off. Only the origin form is known. The absolute form, which RFC 9112 3.2.2 would
have servers accept, is refused: forwarded raw it would let a device choose the host that the
upstream believes in, and no device sends it.

Nearly all targets hold nothing to decode or resolve and take the path without a loop.
"""

from mender_gateway import errors

_PLAIN = bytes(byte for byte in range(0x21, 0x7F) if byte != 0x23)
"""All bytes of a sound target: visible ASCII without ``#``."""

_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_HEX = "0123456789abcdefABCDEF"
_ALL_ESCAPES = {(a + b).encode(): bytes([int(a + b, 16)]) for a in _HEX for b in _HEX}
_UNRESERVED_ESCAPES = {code: byte for code, byte in _ALL_ESCAPES.items() if byte in _UNRESERVED}

LONGEST_PATH = 8192
"""Bytes, without the query; RFC 9110 4.1 asks for 8,000. Deciding on more would take milliseconds,
which a hostile device could have as often as it likes."""

_READINGS = 3
"""How often a chain of careless servers is thought to decode one target."""


def split(target: bytes) -> tuple[bytes, bytes]:
    """The raw path, and the raw query without its question mark (empty if there is none)."""
    path, _, query = target.partition(b"?")
    return path, query


def normalise(target: bytes) -> bytes:
    """The path of `target` for routing: unreserved characters decoded, segments resolved.

    ``%2F``, other escapes, backslashes and case stay. Raises errors.BadRequest for a target that
    is not in origin form or holds control bytes, spaces, bytes from 0x80 up, or a fragment, or
    whose path is longer than `LONGEST_PATH`.
    """
    refuse_unsound(target)
    if not target.startswith(b"/"):
        raise errors.BadRequest("the request target is not a path")
    path = target.partition(b"?")[0]
    if len(path) > LONGEST_PATH:
        raise errors.BadRequest(f"the path is longer than {LONGEST_PATH} bytes")
    if b"%" not in path and b"//" not in path and b"/." not in path:
        return path
    return _resolved(_decoded(path, _UNRESERVED_ESCAPES))


def refuse_unsound(target: bytes) -> None:
    """Raises errors.BadRequest for a target with control bytes, spaces, bytes from 0x80 up, or a
    fragment.
    """
    if target.translate(None, _PLAIN):
        raise errors.BadRequest("the request target holds bytes that a URL cannot hold")


def reads_as_internal(path: bytes) -> bool:
    """Whether a raw path leads under ``/api/internal`` for some server, however it decodes."""
    return reads_as(path, (b"api", b"internal"))


def reads_as(path: bytes, prefix: tuple[bytes, ...]) -> bool:
    """Whether some server could take the raw `path` for one under the segments of `prefix`.

    `prefix` is in lower case. The most tolerant reading splits the finest. As long as segments are
    only split by it, the first ones decide. But ``..`` takes the segment before it away, and ``;``
    all up to the next slash, so there readings can differ in what is left: the segments of
    `prefix` in this order, with anything between, are then enough for a yes.
    """
    folded = path
    for _ in range(_READINGS):
        if b"%" not in folded:
            break
        folded = _decoded(folded, _ALL_ESCAPES)
    folded = folded.replace(b"\\", b"/").lower()
    if prefix[-1] not in folded:
        return False
    segments = folded.split(b"/")
    uncertain = False
    if b";" in folded:
        uncertain = len(segments) - 1 != path.count(b"/")
        segments = [part.partition(b";")[0] for part in segments]
    named = [part for part in segments if part not in (b"", b".")]
    if not uncertain and b".." not in named:
        return tuple(named[: len(prefix)]) == prefix
    rest = iter(named)
    return all(wanted in rest for wanted in prefix)


def tolerant_readings(path: bytes) -> list[bytes]:
    """What servers that decode once or again may take the raw `path` for, dot segments resolved.

    Empty for a path without escapes, backslashes and semicolons: nobody reads that otherwise.
    """
    if b"%" not in path and b"\\" not in path and b";" not in path:
        return []
    readings: list[bytes] = []
    for _ in range(_READINGS):
        path = _decoded(path, _ALL_ESCAPES)
        reading = path.replace(b"\\", b"/")
        if b";" in reading:
            reading = b"/".join(part.partition(b";")[0] for part in reading.split(b"/"))
        readings.append(_resolved(reading))
        if b"%" not in path:
            break
    return readings


def _decoded(path: bytes, escapes: dict[bytes, bytes]) -> bytes:
    """`path` with the escapes that are in `escapes` replaced, each once, from left to right."""
    head, *parts = path.split(b"%")
    out = [head]
    for part in parts:
        byte = escapes.get(part[:2])
        out.append(b"%" + part if byte is None else byte + part[2:])
    return b"".join(out)


def _resolved(path: bytes) -> bytes:
    """`path` without dot and empty segments (RFC 3986 5.2.4); never climbs above the root."""
    out: list[bytes] = []
    segments = path.split(b"/")
    for segment in segments:
        if segment == b"..":
            if out:
                out.pop()
        elif segment not in (b"", b"."):
            out.append(segment)
    resolved = b"/" + b"/".join(out)
    if out and segments[-1] in (b"", b".", b".."):
        return resolved + b"/"
    return resolved
