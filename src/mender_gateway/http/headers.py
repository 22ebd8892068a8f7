"""Header fields as data: what may cross the gateway, and what goes in its place.

Fields are a list of (name, value) pairs in wire order, names with the case of the wire, values
without surrounding blanks. Everything here is pure and runs once or twice per request, so every
decision is one lookup by name, remembered for the names that are in use. Names are folded before
they are judged: upper to lower case and ``_`` to ``-``, because CGI-like servers read
``X_Forwarded_For`` as ``X-Forwarded-For``.

A field named in Connection is dropped (RFC 9110 7.6.1), except those of `END_TO_END`: the same
section forbids naming fields meant for all recipients, and obeying ``Connection: authorization``
would let a stranger on the way, or the device itself, take away what the server decides upon.
Length and coding of the body are never copied: whoever sends makes the framing anew.
"""

from collections.abc import Iterable
from functools import lru_cache

from mender_gateway import errors
from mender_gateway.http.message import type_of_field, type_of_fields

PSEUDONYM = b"mender-gateway"
"""The gateway's name in Via (RFC 9110 7.6.3)."""

VIA_HOPS = 8
"""Gateways may be chained; more passages than this mean that an upstream URL leads back here."""

_UPPER = bytes(range(65, 91)) + b"_"
_FOLD = bytes.maketrans(_UPPER, _UPPER.lower().replace(b"_", b"-"))

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        # Only means something beside `Upgrade: h2c` (RFC 7540 3.2.1), which never goes on.
        b"http2-settings",
    }
)

_FRAMING = frozenset({b"content-length"})

_NEVER_ONWARD = frozenset(
    {
        b"host",
        # The server of this hop answers it; sent on it would wait for a body that is already here.
        b"expect",
        b"forwarded",
        # Servers take it for the address of the client, as they do X-Forwarded-For.
        b"x-real-ip",
        # Some frameworks route by these instead of by the target, past the closed internal APIs.
        b"x-original-url",
        b"x-rewrite-url",
    }
)

_REQUEST_DROP = _HOP_BY_HOP | _FRAMING | _NEVER_ONWARD
_RESPONSE_DROP = _HOP_BY_HOP | _FRAMING

_PLAIN = (
    b"Authorization",
    b"Content-Type",
    b"User-Agent",
    b"Accept",
    b"X-MEN-Signature",
    b"X-Men-Signature",
    b"X-MEN-RequestID",
    b"X-Men-Requestid",
    b"Date",
    b"Server",
    b"Vary",
    b"ETag",
    b"Last-Modified",
    b"Range",
)
_USUAL = frozenset({*_PLAIN, *(name.lower() for name in _PLAIN)})
"""Names, as they are usually written, of fields that cross the gateway as they are. Only a shorter
way: for all others it is decided once and remembered."""

_LONGEST_REMEMBERED = 64
"""Bytes of the longest name for which a decision is remembered: devices may send thousands."""

_KEEP, _DROP, _OPTIONS, _ORIGIN, _VIA, _CODING = range(6)
"""What is to be done with a field: what else than `_KEEP` needs a closer look."""

END_TO_END = frozenset(
    {
        b"host",
        b"via",
        b"date",
        b"authorization",
        b"www-authenticate",
        b"cookie",
        b"set-cookie",
        b"cache-control",
        b"accept-encoding",
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"content-range",
        b"content-disposition",
        b"accept-ranges",
        b"range",
        b"if-range",
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
        b"etag",
        b"last-modified",
        b"location",
        b"retry-after",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"x-men-signature",
        b"x-men-requestid",
    }
)
"""Fields that a Connection option cannot take away."""


def value(fields: type_of_fields, name: bytes) -> bytes | None:
    """The value of the first field called `name` (given in lower case), or None."""
    size = len(name)
    for field, content in fields:
        if len(field) == size and field.lower() == name:
            return content
    return None


def values(fields: type_of_fields, name: bytes) -> list[bytes]:
    """The values of all fields called `name` (given in lower case), in order."""
    size = len(name)
    return [content for field, content in fields if len(field) == size and field.lower() == name]


def tokens(contents: Iterable[bytes]) -> list[bytes]:
    """The members of a comma-separated list, spread over any number of fields, in lower case.

    Empty members do not count (RFC 9110 5.6.1.2). Quoted strings are not understood: this is for
    fields whose members are tokens.
    """
    joined = b",".join(contents).lower()
    return [token for part in joined.split(b",") if (token := part.strip(b" \t"))]


def request_fields(
    fields: type_of_fields,
    *,
    host: bytes,
    forwarded_for: bytes,
    proto: bytes,
    forwarded_host: bytes,
    peer_trusted: bool = False,
    version: str = "1.1",
    identity_coding: bool = False,
    upgrade: bytes = b"",
) -> type_of_fields:
    """The fields that go to the upstream in place of a device's `fields`.

    `host` is the upstream's authority, `forwarded_for` the peer's address without port or
    brackets, `proto` http or https as the peer used it, `forwarded_host` the authority that the
    server may build links from, `version` the HTTP version that the request came in. Fields that
    say who asked are the gateway's own; only those of a trusted peer are kept and added to.
    `identity_coding` asks for an answer that can be rewritten. A non-empty `upgrade` makes the
    request one for a tunnel. The result has no length and no transfer coding.
    Raises errors.BadGateway when the request has come through too many gateways (a loop).
    """
    out: type_of_fields = [(b"Host", host)]
    keep = out.append
    options: list[bytes] = []
    passed_by = 0
    said: type_of_fields = []
    for field in fields:
        if field[0] in _USUAL:
            keep(field)
            continue
        judge = _of_request if len(field[0]) <= _LONGEST_REMEMBERED else _of_request.__wrapped__
        treatment = judge(field[0])
        if treatment == _KEEP:
            keep(field)
        elif treatment == _OPTIONS:
            options.append(field[1])
        elif treatment == _ORIGIN:
            said.append((field[0].translate(_FOLD), field[1]))
        elif treatment == _VIA:
            passed_by += field[1].count(PSEUDONYM)
            keep(field)
        elif treatment == _CODING and not identity_coding:
            keep(field)
    if passed_by >= VIA_HOPS:
        raise errors.BadGateway("the upstream URL leads back to this gateway")
    if options:
        _drop_named(out, options)
    own = _our_own(forwarded_for, forwarded_host, proto, version)
    out += _after(said, own) if said and peer_trusted else own
    if identity_coding:
        keep((b"Accept-Encoding", b"identity"))
    if upgrade:
        keep((b"Connection", b"Upgrade"))
        keep((b"Upgrade", upgrade))
    return out


@lru_cache(maxsize=1024)
def _of_request(name: bytes) -> int:
    folded = name.translate(_FOLD)
    if folded == b"connection":
        return _OPTIONS
    if folded == b"forwarded" or folded.startswith(b"x-forwarded-"):
        return _ORIGIN
    if folded in _REQUEST_DROP:
        return _DROP
    return {b"via": _VIA, b"accept-encoding": _CODING}.get(folded, _KEEP)


@lru_cache(maxsize=1024)
def _of_response(name: bytes) -> int:
    folded = name.translate(_FOLD)
    if folded == b"connection":
        return _OPTIONS
    return _DROP if folded in _RESPONSE_DROP else _KEEP


@lru_cache(maxsize=1024)
def _our_own(address: bytes, host: bytes, proto: bytes, version: str) -> tuple[type_of_field, ...]:
    """What the gateway says of a device's request: the same for all requests of a device."""
    return (
        (b"X-Forwarded-For", address),
        (b"X-Forwarded-Proto", proto),
        (b"X-Forwarded-Host", host),
        (b"Forwarded", _forwarded(address, host, proto)),
        (b"Via", b"%b mender-gateway" % version.encode()),
    )


def _after(said: type_of_fields, own: Iterable[type_of_field]) -> type_of_fields:
    """Our `own` words with what a trusted peer `said` before them (names folded)."""
    out: type_of_fields = []
    for name, text in own:
        before = [told for field, told in said if field == name.lower()]
        if name == b"X-Forwarded-Proto":
            out.append((name, before[0] if before and before[0] else text))
        elif name in (b"X-Forwarded-For", b"Forwarded"):
            out.append((name, b", ".join([*before, text])))
        else:
            out.append((name, text))
    return out


def response_fields(fields: type_of_fields, *, upgrade: bytes = b"") -> type_of_fields:
    """The fields that go to the device in place of the upstream's `fields`.

    Via is not added: a gateway need not (RFC 9110 7.6.3), and devices pay for every byte. A
    non-empty `upgrade` belongs to a 101 answer. The result has no length and no transfer coding.
    """
    out: type_of_fields = []
    keep = out.append
    options: list[bytes] = []
    for field in fields:
        if field[0] in _USUAL:
            keep(field)
            continue
        judge = _of_response if len(field[0]) <= _LONGEST_REMEMBERED else _of_response.__wrapped__
        treatment = judge(field[0])
        if treatment == _KEEP:
            keep(field)
        elif treatment == _OPTIONS:
            options.append(field[1])
    if options:
        _drop_named(out, options)
    if upgrade:
        keep((b"Connection", b"Upgrade"))
        keep((b"Upgrade", upgrade))
    return out


def _drop_named(fields: type_of_fields, options: list[bytes]) -> None:
    if len(options) == 1 and options[0] in (b"keep-alive", b"close", b"Upgrade"):
        return
    named = {option.translate(_FOLD) for option in tokens(options)} - END_TO_END
    if named:
        fields[:] = [field for field in fields if field[0].translate(_FOLD) not in named]


def _forwarded(address: bytes, host: bytes, proto: bytes) -> bytes:
    """One element of Forwarded (RFC 7239 4); what is no token must be quoted."""
    node = b'"[%b]"' % address if b":" in address else address
    quoted = b'"%b"' % host if b":" in host else host
    return b"for=%b;host=%b;proto=%b" % (node, quoted, proto)
