"""A connected, non-blocking socket, plain or TLS, with coroutines for its waits.

TLS is `ssl.SSLSocket` on the descriptor: OpenSSL reads and writes the socket itself, which costs a
fraction of a memory BIO between two event loop transports. A stream has one owner at a time: the
loop, or a sender thread of `bulk` after `detach`.
"""

import socket
import ssl
import struct
from typing import TYPE_CHECKING

from mender_gateway.net.poller import Poller
from mender_gateway.net.tls import forget
from mender_gateway.net.waits import Waits

if TYPE_CHECKING:
    from mender_gateway.net.certificate import ClientCertificate

RECEIVE = 64 * 1024
"""Bytes asked for by one read."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_LINGER_BYTES = 256 * 1024
_LINGER_SECONDS = 2.0


class Truncated(ConnectionError):
    """The TLS peer ended the connection without close_notify: more data may be missing."""


class Stream(Waits):
    """One connection. Each wait takes `timeout` in seconds and raises TimeoutError when it is over.

    Errors of the peer or the network are ConnectionError or another OSError (ssl.SSLError is one).
    """

    __slots__ = ("certificate", "peer")

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        peer: str = "",
    ) -> None:
        super().__init__(sock, poller)
        self.peer = peer
        """Address of the peer, without port, for logs and X-Forwarded-For."""
        self.certificate: ClientCertificate | None = None
        """The peer's, where it is required and was verified."""

    # --- reading and writing -------------------------------------------------------------------

    async def receive(self, timeout: float, size: int = RECEIVE) -> bytes:
        """The next bytes, at most `size`; empty at the peer's end.

        A TLS record that has begun must come to its end within `timeout`, too. Raises Truncated
        where TLS ends without close_notify.
        """
        due = 0.0
        while True:
            if not self.readable or self.closed:
                await self.wait_readable(timeout)
            self.readable = False
            try:
                return self.sock.recv(size)
            except (ssl.SSLWantReadError, BlockingIOError, InterruptedError):
                # A part of a record, or none of our bytes: the time must not begin anew with each.
                now = self._loop.time()
                due = due or now + timeout
                timeout = due - now
            except ssl.SSLWantWriteError:
                await self.wait_writable(timeout)
                self.readable = True
            except ssl.SSLEOFError as error:
                raise Truncated("TLS connection ended without close_notify") from error
            except OSError as error:
                forget(error)
                raise

    def ended(self) -> bool:
        """Whether an idle connection is of no more use: ended, broken, or with unasked-for bytes.

        Never blocks. TLS control records (session tickets, key updates) are taken in.
        """
        if self.closed:
            return True
        try:
            if self.tls:
                self.sock.recv(1)
            else:
                self.sock.recv(1, socket.MSG_PEEK)
        except _WOULD_BLOCK:
            self.readable = False
            return False
        except OSError as error:
            forget(error)
        return True

    def try_receive(self, size: int = RECEIVE) -> bytes | None:
        """What is here to read, without waiting: None for nothing, empty for the peer's end."""
        self.readable = False
        try:
            return self.sock.recv(size)
        except _WOULD_BLOCK:
            return None
        except ssl.SSLEOFError as error:
            raise Truncated("TLS connection ended without close_notify") from error
        except OSError as error:
            forget(error)
            raise

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        """Send what goes without waiting; 0 for nothing: then `wait_writable` and try with the
        same bytes again (SSL_write insists on it).
        """
        try:
            return self.sock.send(data)
        except _WOULD_BLOCK:
            return 0
        except OSError as error:
            forget(error)
            raise

    async def send(self, data: bytes | bytearray | memoryview, timeout: float) -> None:
        """Send everything; `timeout` bounds each wait in which the peer takes no byte."""
        rest = data
        while True:
            try:
                sent = self.sock.send(rest)
            except (ssl.SSLWantWriteError, BlockingIOError, InterruptedError):
                sent = 0
            except ssl.SSLWantReadError:
                await self.wait_readable(timeout)
                self.readable = False
                continue
            except OSError as error:
                forget(error)
                raise
            if sent == len(rest):
                return
            if sent:
                rest = memoryview(rest)[sent:]
            await self.wait_writable(timeout)

    def secure(self, context: ssl.SSLContext) -> None:
        """Put TLS, server side, on a plain stream; `handshake` follows. Does not wait.

        Raises OSError for a connection that is over; `ssl` has then taken the descriptor away.
        """
        self.detach()
        self.sock = context.wrap_socket(
            self.sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        self.tls = True

    async def handshake(self, timeout: float) -> None:
        """Complete the TLS handshake; raises ssl.SSLError with OpenSSL's reason."""
        deadline = self._loop.time() + timeout
        while True:
            try:
                self.sock.do_handshake()  # type: ignore[attr-defined]
                return
            except ssl.SSLWantReadError:
                await self.wait_readable(max(0.0, deadline - self._loop.time()))
                self.readable = False
            except ssl.SSLWantWriteError:
                await self.wait_writable(max(0.0, deadline - self._loop.time()))
            except OSError as error:
                forget(error)
                raise

    # --- ownership and end ---------------------------------------------------------------------

    def _release(self) -> bool:
        if self.closed:
            return False
        self.closed = True
        self.detach()
        self._fail_waits()
        return True

    def close(self) -> None:
        """End cleanly: close_notify under TLS, then FIN. Does not wait; may be called again."""
        if not self._release():
            return
        if self.tls:
            try:
                self.sock.unwrap()  # type: ignore[attr-defined]
            except OSError as error:
                forget(error)
            except ValueError:
                pass
        self.sock.close()

    def abort(self) -> None:
        """End with RST, so that no peer takes what it has for the whole; may be called again."""
        if not self._release():
            return
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        except OSError:
            pass
        self.sock.close()

    async def linger(self) -> None:
        """End cleanly although the peer still sends: unread bytes would make the kernel reset the
        connection and take our answer with it (RFC 9112 9.6). Bounded in bytes and time.
        """
        if self.closed:
            return
        deadline = self._loop.time() + _LINGER_SECONDS
        try:
            if self.tls:
                try:
                    self.sock.unwrap()  # type: ignore[attr-defined]
                except (*_WOULD_BLOCK, ssl.SSLError, ValueError):
                    pass
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
            taken = 0
            while taken < _LINGER_BYTES:
                await self.wait_raw(max(0.0, deadline - self._loop.time()))
                data = socket.socket.recv(self.sock, RECEIVE)
                if not data:
                    break
                taken += len(data)
        except OSError as error:
            forget(error)
        finally:
            self.close()
