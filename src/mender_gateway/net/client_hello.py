"""Which session a TLS client wants to resume, read from its ClientHello before OpenSSL does.

Python's ssl cannot switch OpenSSL's session cache off, and a resumed TLS 1.2 session carries no
certificate chain to check again. Who knows the offered session id can choose a context that never
issued it (see `net.contexts`).
"""

_HANDSHAKE, _CLIENT_HELLO = 0x16, 0x01
_SESSION_ID_AT = 5 + 4 + 2 + 32
"""Record header, message header, version and random (RFC 5246 7.4.1.2, RFC 8446 4.1.2)."""
LOOK = _SESSION_ID_AT + 1 + 32
"""As many bytes tell."""


def needed(data: bytes) -> int:
    """How many bytes of a connection that begins with `data` tell; no ClientHello is shorter."""
    size = data[_SESSION_ID_AT] if len(data) > _SESSION_ID_AT else 0
    return _SESSION_ID_AT + 1 + min(size, 32)


def offered_session(data: bytes) -> bytes | None:
    """The session id in the first bytes of a connection; empty for none, None: cannot be told."""
    if len(data) <= _SESSION_ID_AT or data[0] != _HANDSHAKE or data[5] != _CLIENT_HELLO:
        return None
    size = data[_SESSION_ID_AT]
    end = _SESSION_ID_AT + 1 + size
    record = int.from_bytes(data[3:5])
    if size > 32 or end > len(data) or end > 5 + record:
        return None
    return data[_SESSION_ID_AT + 1 : end]
