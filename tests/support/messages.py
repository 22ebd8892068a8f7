"""Heads and whole messages as bytes."""

EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def asking(
    path: str, *fields: bytes, version: bytes = b"1.1", method: bytes = b"GET", body: bytes = b""
) -> bytes:
    """A request; a `body` comes with its length."""
    lines = [method + b" " + path.encode() + b" HTTP/" + version, b"Host: gateway", *fields]
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def telling(body: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """An answer with its length."""
    lines = [b"HTTP/1.1 " + status, *fields, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(body: bytes, size: int) -> bytes:
    """`body` in the chunked coding, in chunks of `size` bytes."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
