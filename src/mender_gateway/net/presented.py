"""The certificates of a TLS client, as Python's ssl does not hand them out.

Two remedies for gaps in the standard library, isolated here. Of a handshake that OpenSSL fails,
ssl keeps nothing: OpenSSL's message callback (`SSLContext._msg_callback`, there since Python 3.8)
shows the Certificate message before it is verified. It costs a Python call per TLS record, so the
connection leaves the watched context as soon as the handshake is over. From OpenSSL 3.2 on a client
may compress the message (RFC 8879); it is not invited to. And the chain that was
verified has a public method from Python 3.13 on, a method of the inner object before that. Where
neither is there, failed handshakes are logged without a subject, and chains are refused.
"""

import ssl
from typing import Any

_CERTIFICATE = 11
"""HandshakeType (RFC 8446 4)."""
_OP_NO_RX_CERTIFICATE_COMPRESSION = 1 << 33
"""Of openssl/ssl.h since 3.2; Python has no name for it."""


class WatchedSocket(ssl.SSLSocket):
    """`presented` is the body of the client's Certificate message, once it has come."""

    presented: bytes | None = None


def watch(context: ssl.SSLContext) -> None:
    """Let sockets of this context be `WatchedSocket`s that note what the client presents."""
    context.sslsocket_class = WatchedSocket
    if ssl.OPENSSL_VERSION_INFO >= (3, 2):
        context.options |= _OP_NO_RX_CERTIFICATE_COMPRESSION
    if hasattr(context, "_msg_callback"):
        context._msg_callback = _note


def _note(
    connection: Any, direction: str, version: Any, content: Any, message: Any, data: bytes
) -> None:
    # What is raised in here would be raised out of the handshake.
    if direction == "read" and message == _CERTIFICATE and isinstance(connection, WatchedSocket):
        connection.presented = data[4:]  # OpenSSL takes 100 KiB at most


def presented_chain(sock: object, limit: int = 16) -> list[bytes]:
    """DER of the certificates that the client sent, leaf first; what is malformed is left out."""
    data = sock.presented if isinstance(sock, WatchedSocket) else None
    if not data:
        return []
    # TLS 1.3 puts a context before the list and extensions after each certificate (RFC 8446 4.4.2).
    tls_1_3 = int.from_bytes(data[:3]) != len(data) - 3
    at = 1 + data[0] if tls_1_3 else 0
    at += 3
    found: list[bytes] = []
    while at + 3 <= len(data) and len(found) < limit:
        size = int.from_bytes(data[at : at + 3])
        at += 3
        if not size or at + size > len(data):
            break
        found.append(data[at : at + size])
        at += size
        if tls_1_3:
            at += 2 + int.from_bytes(data[at : at + 2])
    return found


def verified_chain(sock: ssl.SSLSocket) -> list[bytes]:
    """DER of the chain that OpenSSL verified, leaf first, anchor last; empty when there is none."""
    if hasattr(sock, "get_verified_chain"):
        return list(sock.get_verified_chain())
    inner: Any = getattr(sock, "_sslobj", None)
    if inner is None or not hasattr(inner, "get_verified_chain"):
        return []
    import _ssl

    return [each.public_bytes(_ssl.ENCODING_DER) for each in inner.get_verified_chain() or ()]
