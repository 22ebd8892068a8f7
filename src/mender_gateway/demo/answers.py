"""An answer of the demo's servers: status, fields in their order, body.

Nothing is added on the way out but chunk framing: what a handler puts here is what a client sees.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from email.utils import formatdate

from mender_gateway.demo.blobs import Slice
from mender_gateway.demo.link import Tunnel
from mender_gateway.demo.uplink import Uplink


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is sent as it is, framed by the Content-Length or Transfer-Encoding in `headers`.

    With neither the body ends with the connection (RFC 9112 6.3), unless the status allows none.
    """

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | Slice = b""
    reason: str | None = None
    """The reason phrase, where it is not the status' usual one."""
    pace: Uplink | None = None
    """The line that head and body cross; None: no limit."""
    tunnel: Callable[[Tunnel], Awaitable[None]] | None = None
    """After a 101: owns the connection until it returns."""

    def header(self, name: str) -> str | None:
        name = name.lower()
        return next((value for key, value in self.headers if key.lower() == name), None)

    def with_header(self, name: str, value: str | None) -> "Answer":
        """A copy in which field `name` has `value` (in its place, else last) or is gone (None)."""
        fields: list[tuple[str, str]] = []
        placed = value is None
        for key, old in self.headers:
            if key.lower() != name.lower():
                fields.append((key, old))
            elif not placed and value is not None:
                fields.append((key, value))
                placed = True
        if not placed and value is not None:
            fields.append((name, value))
        return replace(self, headers=fields)

    @property
    def body_length(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.length


def http_date(now: float) -> str:
    """RFC 9110 5.6.7, from seconds since the epoch."""
    return formatdate(now, usegmt=True)
