"""Who may enter: TLS with a required client certificate, our checks, and the open connections.

`admit` shakes hands and checks the chain before the first request is read. Admitted connections are
kept with their chains, so that a certificate that is revoked afterwards loses them at once. All
state is the trust in force, the parsed certificates of CAs seen lately, and the open connections.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable

from mender_gateway.net.certificate import Chain, ClientCertificate, Unreadable
from mender_gateway.net.client_hello import LOOK, needed, offered_session
from mender_gateway.net.contexts import Contexts
from mender_gateway.net.presented import WatchedSocket, presented_chain, verified_chain
from mender_gateway.net.refusal import Reason, Refused, reason_of, text_of
from mender_gateway.net.stream import Stream
from mender_gateway.net.trust import Trust

_CAS_KEPT = 64
_BATCH = 200
_TLS_HANDSHAKE = 0x16

type_of_cut = Callable[[str, ClientCertificate, Refused], None]
"""Told of a connection that was cut: peer address, certificate, reason."""


class Gate:
    """The entrance of one listener; belongs to the event loop."""

    def __init__(self, trust: Trust, on_cut: type_of_cut, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._contexts = Contexts(trust)
        self._on_cut = on_cut
        self._inside: dict[Stream, Chain] = {}
        self._cas: dict[bytes, ClientCertificate] = {}

    @property
    def trust(self) -> Trust:
        return self._contexts.trust

    @property
    def inside(self) -> int:
        """Connections with a certificate that are open."""
        return len(self._inside)

    async def admit(self, stream: Stream, timeout: float) -> None:
        """Make a fresh plain stream a verified one; `stream.certificate` is then the client's.

        Waits `timeout` seconds at most. Raises Refused, TimeoutError, or another OSError of the
        network. Call `left` at the connection's end.
        """
        try:
            await self._admit(stream, timeout)
        except ssl.SSLError as error:
            refused = Refused(reason_of(error), text_of(error))
            refused.shown = _shown(stream)
            raise refused from error
        except Refused as refused:
            refused.shown = _shown(stream)
            raise

    async def _admit(self, stream: Stream, timeout: float) -> None:
        began = self._loop.time()
        offered = await self._offered(stream, timeout)
        contexts = self._contexts
        stream.secure(contexts.choose(offered))
        await stream.handshake(max(0.0, began + timeout - self._loop.time()))
        sock = stream.sock
        if not isinstance(sock, ssl.SSLSocket):
            raise TypeError("a secured stream has an SSLSocket")
        if sock.session_reused:
            raise Refused(Reason.RESUMED, "a resumed session shows no certificate")
        contexts.established(sock)
        try:
            chain = self._chain(sock)
            contexts.trust.rules.check(chain)
            if self._contexts is not contexts:  # replaced while the client was shaking hands
                self.trust.rules.check_revocation(chain)
        except Refused:
            raise
        except Exception as error:
            raise _unjudged(error) from error
        if isinstance(sock, WatchedSocket):
            sock.presented = None
        sock.context = contexts.trust.settled
        stream.certificate = chain.leaf
        self._inside[stream] = chain

    async def _offered(self, stream: Stream, timeout: float) -> bytes:
        """The session id that the client offers, once as many bytes have come as tell it.

        Nothing is made for a client that has not said that much.
        """
        deadline = self._loop.time() + timeout
        sock = stream.sock
        wanted = 1
        while True:
            await stream.wait_readable(max(0.0, deadline - self._loop.time()))
            hello = socket.socket.recv(sock, LOOK, socket.MSG_PEEK)
            if not hello:
                raise ConnectionResetError("ended without a word")
            if hello[0] != _TLS_HANDSHAKE:
                raise Refused(Reason.PROTOCOL, f"not TLS, but {hello[:16]!r}")
            if len(hello) < wanted or len(hello) >= needed(hello):
                break  # it has ended, or that is enough
            wanted = needed(hello)
            # Let the kernel tell of no less: it would tell of the same bytes again and again.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
            stream.readable = False
        if wanted > 1:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        offered = offered_session(hello)
        if offered is None:
            raise Refused(Reason.PROTOCOL, f"no ClientHello, but {hello[:16]!r}")
        return offered

    def left(self, stream: Stream) -> None:
        """The connection is over; may be called for one that was not admitted."""
        self._inside.pop(stream, None)

    async def replace(self, trust: Trust) -> int:
        """Let `trust` be in force; cuts the connections of revoked certificates, and counts them.

        Other connections live on, whatever has changed. Lets the loop breathe in between.
        """
        self._contexts = Contexts(trust)
        self._cas.clear()
        cut = 0
        for number, (stream, chain) in enumerate(list(self._inside.items()), 1):
            if number % _BATCH == 0:
                await asyncio.sleep(0)
            try:
                trust.rules.check_revocation(chain)
            except Exception as error:
                reason = error if isinstance(error, Refused) else _unjudged(error)
                if self._inside.pop(stream, None) is not None:
                    stream.certificate = None
                    stream.cut()
                    self._on_cut(stream.peer, chain.leaf, reason)
                    cut += 1
        return cut

    def _chain(self, sock: ssl.SSLSocket) -> Chain:
        ders = verified_chain(sock)
        if not ders:
            raise Refused(Reason.NO_CERTIFICATE, "there is no verified chain")
        return Chain((ClientCertificate(ders[0]), *map(self._ca, ders[1:])))

    def _ca(self, der: bytes) -> ClientCertificate:
        known = self._cas.get(der)
        if known is None:
            known = ClientCertificate(der)
            if len(self._cas) >= _CAS_KEPT:
                del self._cas[next(iter(self._cas))]
            self._cas[der] = known
        return known


def _unjudged(error: Exception) -> Refused:
    """Whoever cannot be judged is not let in, and not left in."""
    return Refused(Reason.MALFORMED, f"a certificate cannot be judged: {error}")


def _shown(stream: Stream) -> ClientCertificate | None:
    shown = presented_chain(stream.sock)
    try:
        return ClientCertificate(shown[0]) if shown else None
    except Unreadable:
        return None
