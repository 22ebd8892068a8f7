"""Waiting for a socket on the event loop: to be read, to be written, or for another one beside it.

The reading watch stays registered between requests; data or an end that arrives while nobody waits
sets `readable` and stops the watch, so that a busy peer costs no further event and an idle pooled
connection knows of its end. libuv tells of an error once and then forgets the descriptor; therefore
the connection's state is looked at before a watch that has told of something is trusted again.
"""

import asyncio
import fcntl
import socket
import ssl
import struct
import termios
from typing import Self

from mender_gateway.net.deadlines import Deadlines

_BROKEN = bytes([7])
"""TCP_CLOSE: the state after RST or a lost connection."""
_ENDED = bytes([8])
"""TCP_CLOSE_WAIT: the peer has sent FIN."""
_LOOKS = 4
"""How often, within the time that a peer may take no byte, it is looked whether it took some."""
_COUNT = struct.Struct("i")


class Waits:
    """The waits of one socket. Each takes `timeout` in seconds and raises TimeoutError after it."""

    __slots__ = (
        "_deadlines",
        "_loop",
        "_read_wait",
        "_told",
        "_watching",
        "_write_wait",
        "closed",
        "fd",
        "readable",
        "sock",
        "tls",
    )

    def __init__(
        self, sock: socket.socket, loop: asyncio.AbstractEventLoop, deadlines: Deadlines
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.tls = isinstance(sock, ssl.SSLSocket)
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

    # --- for reading ---------------------------------------------------------------------------

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

        When data had come before the error, whoever was told of both has read the data and knows
        nothing of the error yet.
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

    def gone(self) -> bool:
        """Whether the peer has ended the connection, also when unread data came before that."""
        if self.closed:
            return True
        return self._state() in (_BROKEN, _ENDED)

    def heed(self) -> None:
        """Watch although nobody waits: `readable` then says when data or the end have come."""
        if not (self.readable or self._arm()):
            self.readable = True

    def unwatch(self, wait: asyncio.Future[None]) -> None:
        if self._read_wait is wait:
            self._read_wait = None

    async def wait_readable(self, timeout: float, also: Self | None = None) -> None:
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

    async def wait_raw(self, timeout: float) -> None:
        """Wait for bytes on the socket itself, whatever TLS still holds."""
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

    # --- for writing ---------------------------------------------------------------------------

    def _on_writable(self) -> None:
        self._loop.remove_writer(self.fd)
        wait, self._write_wait = self._write_wait, None
        if wait is not None and not wait.done():
            wait.set_result(None)

    async def wait_writable(self, timeout: float, also: Self | None = None) -> None:
        """Wait until a send may go on, or until `also` has something to read.

        The kernel lets a send go on when a good part of its buffer is free, for which a slow device
        may need much longer than `timeout`: as long as it takes bytes the wait goes on.
        """
        if self.closed:
            raise ConnectionResetError("connection is closed")
        queued = self._queued()
        looks = _LOOKS
        while True:
            try:
                await self._wait_writable(timeout / _LOOKS, also)
                return
            except TimeoutError:
                left = self._queued()
                looks = _LOOKS if left < queued else looks - 1
                queued = left
                if not looks:
                    raise

    def _queued(self) -> int:
        """Bytes that the peer's kernel has not taken yet (SIOCOUTQ)."""
        count: int = _COUNT.unpack(fcntl.ioctl(self.fd, termios.TIOCOUTQ, bytes(4)))[0]
        return count

    async def _wait_writable(self, timeout: float, also: Self | None) -> None:
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

    # --- from outside --------------------------------------------------------------------------

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
