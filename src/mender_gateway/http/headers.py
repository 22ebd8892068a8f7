"""Header fields as data: what may cross the gateway, and what goes in its place.

Fields are a list of (name, value) pairs in wire order, names with the case of the wire, values
without surrounding blanks. Everything here is pure and runs once or twice per request, so every
decision is one lookup in a frozenset. Names are folded before the lookup: upper to lower case and
``_`` to ``-``, because CGI-like servers read ``X_Forwarded_For`` as ``X-Forwarded-For``.

A field named in Connection is dropped (RFC 9110 7.6.1), except those of `END_TO_END`: the same
section forbids naming fields meant for all recipients, and obeying ``Connection: authorization``
would let a stranger on the way, or the device itself, take away what the server decides upon.
Length and coding of the body are never copied: whoever sends makes the framing anew.
"""

from collections.abc import Iterable

from mender_gateway import errors
from mender_gateway.http.message import type_of_fields

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
_REQUEST_DROP_CODED = _REQUEST_DROP | {b"accept-encoding"}
_RESPONSE_DROP = _HOP_BY_HOP | _FRAMING

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
    drop = _REQUEST_DROP_CODED if identity_coding else _REQUEST_DROP
    out: type_of_fields = [(b"Host", host)]
    keep = out.append
    options: list[bytes] = []
    passed_by = 0
    forwarded_fields: type_of_fields = []
    for field in fields:
        name = field[0].translate(_FOLD)
        if name in drop:
            if name == b"connection":
                options.append(field[1])
            elif name == b"forwarded":
                forwarded_fields.append((name, field[1]))
        elif name.startswith(b"x-forwarded-"):
            forwarded_fields.append((name, field[1]))
        else:
            if name == b"via":
                passed_by += field[1].count(PSEUDONYM)
            keep(field)
    if passed_by >= VIA_HOPS:
        raise errors.BadGateway("the upstream URL leads back to this gateway")
    if options:
        _drop_named(out, options)
    via = b"1.1 mender-gateway" if version == "1.1" else b"%b mender-gateway" % version.encode()
    forwarded = _forwarded(forwarded_for, forwarded_host, proto)
    if forwarded_fields and peer_trusted:
        before = [text for name, text in forwarded_fields if name == b"x-forwarded-for"]
        forwarded_for = b", ".join([*before, forwarded_for])
        proto = value(forwarded_fields, b"x-forwarded-proto") or proto
        before = [text for name, text in forwarded_fields if name == b"forwarded"]
        forwarded = b", ".join([*before, forwarded])
    out += (
        (b"X-Forwarded-For", forwarded_for),
        (b"X-Forwarded-Proto", proto),
        (b"X-Forwarded-Host", forwarded_host),
        (b"Forwarded", forwarded),
        (b"Via", via),
    )
    if identity_coding:
        keep((b"Accept-Encoding", b"identity"))
    if upgrade:
        keep((b"Connection", b"Upgrade"))
        keep((b"Upgrade", upgrade))
    return out


def response_fields(fields: type_of_fields, *, upgrade: bytes = b"") -> type_of_fields:
    """The fields that go to the device in place of the upstream's `fields`.

    Via is not added: a gateway need not (RFC 9110 7.6.3), and devices pay for every byte. A
    non-empty `upgrade` belongs to a 101 answer. The result has no length and no transfer coding.
    """
    drop = _RESPONSE_DROP
    out: type_of_fields = []
    keep = out.append
    options: list[bytes] = []
    for field in fields:
        name = field[0].translate(_FOLD)
        if name not in drop:
            keep(field)
        elif name == b"connection":
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
