"""No session is resumed where certificates are required, with a session cache that cannot be off.

TLS 1.3 and tickets are switched off by options; the session ids of TLS 1.2 are not, from Python.
So a client that offers a session id is answered by a context that cannot have issued it: the spare
one, unless the spare one is what issued it, then the main one, which is used by nobody who offers
an id. The ids issued by the spare context are remembered; when there are many, it is replaced.
"""

import ssl

from mender_gateway.net.trust import Trust

_MOST_ISSUED = 1000


class Contexts:
    """The contexts of one `Trust`; not thread-safe."""

    __slots__ = ("_issued", "_spare", "trust")

    def __init__(self, trust: Trust) -> None:
        self.trust = trust
        self._spare: ssl.SSLContext | None = None
        self._issued: set[bytes] = set()

    def choose(self, offered: bytes) -> ssl.SSLContext:
        """The context for a client that offers this session id, empty for none.

        Raises OSError, ssl.SSLError.
        """
        if not offered or offered in self._issued:
            return self.trust.context
        if self._spare is None or len(self._issued) >= _MOST_ISSUED:
            self._issued = set()
            self._spare = self.trust.spare()
        return self._spare

    def established(self, sock: ssl.SSLSocket) -> None:
        """Note the session of a finished handshake."""
        if sock.context is self._spare and sock.version() != "TLSv1.3":
            session = sock.session
            if session is not None:
                self._issued.add(session.id)
