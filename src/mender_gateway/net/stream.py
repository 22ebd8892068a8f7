"""A connected, non-blocking socket, plain or TLS, with coroutines for its waits.

TLS is `ssl.SSLSocket` on the descriptor: OpenSSL reads and writes the socket itself, which costs a
fraction of a memory BIO between two event loop transports. A stream has one owner at a time: the
loop, or a sender thread of `bulk` after `detach`. The reading watch stays registered between
requests; data or an end that arrives while nobody waits sets `readable` and stops the watch, so
that a busy peer costs no further event and an idle pooled connection knows of its end.
"""

import asyncio
import socket
import ssl
import struct
from typing import TYPE_CHECKING

from mender_gateway.net.deadlines import Deadlines

if TYPE_CHECKING:
    from mender_gateway.net.certificate import ClientCertificate

RECEIVE = 64 * 1024
"""Bytes asked for by one read."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_BROKEN = bytes([7])
"""TCP_CLOSE: the state after RST or a lost connection."""
_ENDED = bytes([8])
"""TCP_CLOSE_WAIT: the peer has sent FIN."""
_LINGER_BYTES = 256 * 1024
_LINGER_SECONDS = 2.0


class Truncated(ConnectionError):
    """The TLS peer ended the connection without close_notify: more data may be missing."""


class Stream:
    """One connection. Each wait takes `timeout` in seconds and raises TimeoutError when it is over.

    Errors of the peer or the network are ConnectionError or another OSError (ssl.SSLError is one).
    """

    __slots__ = (
        "_deadlines",
        "_loop",
        "_read_wait",
        "_told",
        "_watching",
        "_write_wait",
        "certificate",
        "closed",
        "fd",
        "peer",
        "readable",
        "sock",
        "tls",
    )

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        deadlines: Deadlines,
        peer: str = "",
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.tls = isinstance(sock, ssl.SSLSocket)
        self.peer = peer
        """Address of the peer, without port, for logs and X-Forwarded-For."""
        self.certificate: ClientCertificate | None = None
        """The peer's, where it is required and was verified."""
        self.closed = False
        self.readable = False
        """Data or the end arrived while nobody waited for it."""
        self._loop = loop
        self._deadlines = deadlines
        self._watching = False
        self._told = False
        """The watch has told of something since it was last known to be sound."""
        self._read_wait: asyncio.Future[None] | None = None
        self._write_wait: asyncio.Future[None] | None = None

    # --- waits ---------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        self.readable = self._told = True
        wait = self._read_wait
        if wait is not None:
            self._read_wait = None
            if not wait.done():
                wait.set_result(None)
        else:
            self._watching = False
            self._loop.remove_reader(self.fd)

    def watch(self, wait: asyncio.Future[None]) -> None:
        """Let `wait` end when there is something to read; `readable` then says so.

        One wait at a time; end it with `unwatch`.
        """
        if self.closed:
            raise ConnectionResetError("connection is closed")
        if self.readable or (self.tls and self.sock.pending()):  # type: ignore[attr-defined]
            self.readable = True
            if not wait.done():
                wait.set_result(None)
            return
        if self._arm():
            self._read_wait = wait
        else:
            self.readable = True
            if not wait.done():
                wait.set_result(None)

    def _arm(self) -> bool:
        """Register the watch; False when there is nothing to wait for: the connection is broken.

        libuv tells of an error (RST) once and then forgets the descriptor. When data had come
        before the error, whoever was told has read that and knows nothing of the error yet.
        """
        if not self._watching:
            self._watching = True
            self._loop.add_reader(self.fd, self._on_readable)
        elif self._told and self._state() == _BROKEN:
            return False
        self._told = False
        return True

    def _state(self) -> bytes:
        """TCP's state: the first byte of `struct tcp_info`."""
        return self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)

    def heed(self) -> None:
        """Watch although nobody waits: `readable` then says when data or the end have come."""
        if not (self.readable or self._arm()):
            self.readable = True

    def unwatch(self, wait: asyncio.Future[None]) -> None:
        if self._read_wait is wait:
            self._read_wait = None

    async def wait_readable(self, timeout: float, also: "Stream | None" = None) -> None:
        """Wait until there is something to read here, or in `also`: `readable` says in which."""
        wait = self._loop.create_future()
        self.watch(wait)
        if wait.done():
            return
        self._deadlines.set(wait, timeout)
        try:
            if also is not None:
                also.watch(wait)
            await wait
        finally:
            self._deadlines.clear(wait)
            if self._read_wait is wait:
                self._read_wait = None
            if also is not None:
                also.unwatch(wait)

    def _on_writable(self) -> None:
        self._loop.remove_writer(self.fd)
        wait, self._write_wait = self._write_wait, None
        if wait is not None and not wait.done():
            wait.set_result(None)

    async def wait_writable(self, timeout: float, also: "Stream | None" = None) -> None:
        """Wait until a send may go on, or until `also` has something to read."""
        if self.closed:
            raise ConnectionResetError("connection is closed")
        wait = self._loop.create_future()
        try:
            self._loop.add_writer(self.fd, self._on_writable)
        except RuntimeError:  # libuv has forgotten the descriptor, see `_arm`
            return
        self._write_wait = wait
        self._deadlines.set(wait, timeout)
        try:
            if also is not None:
                also.watch(wait)
            await wait
        finally:
            self._deadlines.clear(wait)
            if also is not None:
                also.unwatch(wait)
            if self._write_wait is wait:
                self._write_wait = None
                if not self.closed:
                    self._loop.remove_writer(self.fd)

    # --- reading and writing -------------------------------------------------------------------

    async def receive(self, timeout: float, size: int = RECEIVE) -> bytes:
        """The next bytes, at most `size`; empty at the peer's end.

        Raises Truncated where TLS ends without close_notify.
        """
        while True:
            await self.wait_readable(timeout)
            self.readable = False
            try:
                return self.sock.recv(size)
            except (ssl.SSLWantReadError, BlockingIOError, InterruptedError):
                continue
            except ssl.SSLWantWriteError:
                await self.wait_writable(timeout)
                self.readable = True
            except ssl.SSLEOFError as error:
                raise Truncated("TLS connection ended without close_notify") from error

    async def receive_into(self, buffer: memoryview, timeout: float) -> int:
        """Like `receive`, into `buffer`; 0 at the peer's end."""
        while True:
            await self.wait_readable(timeout)
            self.readable = False
            try:
                return self.sock.recv_into(buffer)
            except (ssl.SSLWantReadError, BlockingIOError, InterruptedError):
                continue
            except ssl.SSLWantWriteError:
                await self.wait_writable(timeout)
                self.readable = True
            except ssl.SSLEOFError as error:
                raise Truncated("TLS connection ended without close_notify") from error

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
        except OSError:
            pass
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

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        """Send what goes without waiting; 0 for nothing: then `wait_writable` and try with the
        same bytes again (SSL_write insists on it).
        """
        try:
            return self.sock.send(data)
        except _WOULD_BLOCK:
            return 0

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
            if sent == len(rest):
                return
            if sent:
                rest = memoryview(rest)[sent:]
            await self.wait_writable(timeout)

    def secure(self, context: ssl.SSLContext) -> None:
        """Put TLS, server side, on a plain stream; `handshake` follows. Does not wait."""
        self.sock = context.wrap_socket(
            self.sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        self.tls = True

    def gone(self) -> bool:
        """Whether the peer has ended the connection, also when unread data came before that."""
        if self.closed:
            return True
        return self._state() in (_BROKEN, _ENDED)

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

    # --- ownership and end ---------------------------------------------------------------------

    def detach(self) -> None:
        """Take the stream off the loop's watch, before another thread uses the socket."""
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self.fd)

    def cut(self) -> None:
        """End the connection from outside, whoever owns it: the owner's next call fails."""
        try:
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        except OSError:
            pass
        self._fail_waits()

    def _fail_waits(self) -> None:
        for wait in (self._read_wait, self._write_wait):
            if wait is not None and not wait.done():
                wait.set_exception(ConnectionAbortedError("connection was cut"))

    def _release(self) -> bool:
        if self.closed:
            return False
        self.closed = True
        self.detach()
        if self._write_wait is not None:
            self._loop.remove_writer(self.fd)
        self._fail_waits()
        return True

    def close(self) -> None:
        """End cleanly: close_notify under TLS, then FIN. Does not wait; may be called again."""
        if not self._release():
            return
        if self.tls:
            try:
                self.sock.unwrap()  # type: ignore[attr-defined]
            except (OSError, ValueError):
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
                await self._raw_readable(max(0.0, deadline - self._loop.time()))
                data = socket.socket.recv(self.sock, RECEIVE)
                if not data:
                    break
                taken += len(data)
        except OSError:
            pass
        finally:
            self.close()

    async def _raw_readable(self, timeout: float) -> None:
        self.readable = False
        wait = self._loop.create_future()
        if not self._arm():
            return
        self._read_wait = wait
        self._deadlines.set(wait, timeout)
        try:
            await wait
        finally:
            self._deadlines.clear(wait)
            self._read_wait = None
