"""Deployment instructions (the 200 answer to ``next``) with another link, byte-exact elsewhere.

Only ``artifact.source.uri`` and ``artifact.source.expire`` change. Servers of all ages and editions
send this document, with members that nobody here knows; so the text is cut and never re-encoded.
Readers differ on repeated members and on the case of names. Therefore every ``uri`` that some
reader could take for the link is rewritten, and if one of several cannot be, none is. Documents in
which each name stands once, nearly all, are read by msgspec and not walked.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted

import msgspec

from mender_gateway import jsontext
from mender_gateway.jsontext import Value

_NAMES = frozenset({"uri", "expire"})


class _Source(msgspec.Struct, gc=False):
    uri: msgspec.Raw
    expire: msgspec.Raw


class _Artifact(msgspec.Struct, gc=False):
    source: _Source


class _Instructions(msgspec.Struct, gc=False):
    artifact: _Artifact


class _Named(msgspec.Struct, gc=False):
    id: str | None = None


class _Names(msgspec.Struct, gc=False):
    id: str
    artifact: _Named


_instructions = msgspec.json.Decoder(_Instructions)
_names = msgspec.json.Decoder(_Names)
_string = msgspec.json.Decoder(str)
_ONCE = (b'"artifact"', b'"source"', b'"uri"', b'"expire"')


class Rewritten(msgspec.Struct, frozen=True, gc=False):
    """A new link; `expire` is Unix time, or None when the document's own time still holds."""

    uri: str
    expire: float | None = None


class Document(msgspec.Struct, frozen=True, gc=False):
    """What to send on; `reason` says why instructions were not understood, None if they were."""

    body: bytes
    reason: str | None = None


def rewrite(body: bytes, decide: Callable[[str], Rewritten | None]) -> Document:
    """Replace the link in `body` by what `decide` makes of it; None leaves it as it is.

    A missing ``expire`` is not added. A body that holds no link comes back unchanged with a reason.
    Raises what `decide` raises.
    """
    try:
        text = body.decode()
        links, ends = _find_at_once(body, text) or _find(text)
    except ValueError as error:
        return Document(body, f"not deployment instructions: {error}")
    rewritten = [decide(link.value) for link in links]
    new = [each for each in rewritten if each is not None]
    if not new:
        return Document(body)
    if len(new) != len(links):
        return Document(body, "the instructions repeat their link, and not every one is storage")
    edits = [(at.start, at.end, quoted(to.uri)) for at, to in zip(links, new, strict=True)]
    moments = [each.expire for each in new if each.expire is not None]
    if moments:
        expire = f'"{rfc3339(min(moments))}"'
        edits += [(at.start, at.end, expire) for at in ends]
    edits.sort()
    parts: list[str] = []
    done = 0
    for start, end, replacement in edits:
        parts += (text[done:start], replacement)
        done = end
    parts.append(text[done:])
    return Document("".join(parts).encode())


def deployment_of(body: bytes) -> str | None:
    """The deployment's id; None when `body` is no instructions, or repeats it."""
    try:
        said = _names.decode(body)
        if body.lower().count(b'"id"') == 1 + (said.artifact.id is not None):
            return said.id
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        found = jsontext.members(body.decode(), (), frozenset({"id"}))
    except ValueError:
        return None
    if len(found) != 1 or type(found[0].value) is not str:
        return None
    return found[0].value


@lru_cache(maxsize=64)
def rfc3339(moment: float) -> str:
    """Unix time as RFC 3339 in UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _find_at_once(body: bytes, text: str) -> tuple[list[Value], list[Value]] | None:
    """The same as `_find` for a document in which no reader can see another link; None otherwise.

    So it is when each name stands once in any case, without another beside it that escapes or
    letters beyond ASCII could disguise. Offsets are then the same in bytes and characters.
    """
    if not body.isascii():
        return None
    folded = body.lower()
    for name in _ONCE:
        at = folded.find(name)
        if at < 0 or body[at : at + len(name)] != name or folded.find(name, at + 1) >= 0:
            return None
    try:
        source = _instructions.decode(body).artifact.source
        link = _member(body, b'"uri"', bytes(source.uri))
        end = _member(body, b'"expire"', bytes(source.expire))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    if text.count("\\u") != text.count("\\u", link.start, link.end):
        return None
    return [link], [end]


def _member(body: bytes, name: bytes, raw: bytes) -> Value:
    """The string member whose quoted `name` stands once in `body`, with the text `raw`.

    Raises ValueError (msgspec's errors are ones) for what is no string or stands elsewhere.
    """
    after = body.index(name) + len(name)
    start = body.index(raw, after)
    if body[after:start].strip(b" \t\r\n") != b":":
        raise ValueError("the member is not where its name is")
    return Value(name.decode(), _string.decode(raw), start, start + len(raw))


def _find(text: str) -> tuple[list[Value], list[Value]]:
    """All members that some reader takes for uri, and all for expire, as strings."""
    links: list[Value] = []
    ends: list[Value] = []
    for member in jsontext.members(text, ("artifact", "source"), _NAMES):
        if type(member.value) is str:
            (links if member.name == "uri" else ends).append(member)
        elif member.name == "uri":
            raise ValueError("artifact.source.uri is not a string")
    if not links:
        raise ValueError("artifact.source.uri is missing")
    return links, ends
