"""Waiting for a socket on the event loop: to be read, to be written, or for another one beside it.

The reading watch stays registered between requests; data or an end that arrives while nobody waits
sets `readable` and stops the watch, so that a busy peer costs no further event and an idle pooled
connection knows of its end.
"""

import asyncio
import fcntl
import math
import socket
import ssl
import struct
import termios
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import Self

from mender_gateway.net.poller import Poller

_OVER = EPOLLERR | EPOLLHUP
_GONE = (bytes([7]), bytes([8]))
"""TCP_CLOSE, the state after RST or a lost connection; TCP_CLOSE_WAIT: the peer has sent FIN."""
_LOOKS = 4
"""How often, within the time that a peer may take no byte, it is looked whether it took some."""
_COUNT = struct.Struct("i")


class Waits:
    """The waits of one socket. Each takes `timeout` in seconds and raises TimeoutError after it."""

    __slots__ = (
        "_interest",
        "_loop",
        "_poller",
        "_read_due",
        "_read_wait",
        "_write_due",
        "_write_wait",
        "closed",
        "fd",
        "over",
        "readable",
        "sock",
        "tls",
    )

    def __init__(self, sock: socket.socket, poller: Poller) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.tls = isinstance(sock, ssl.SSLSocket)
        self.closed = False
        self.readable = False
        """Data or the end arrived while nobody waited for it."""
        self.over = False
        """The connection is broken, or ended both ways: there is nothing left to wait for."""
        self._loop = poller.loop
        self._poller = poller
        self._interest = -1  # the events asked for; -1: not registered
        # A wait that is done (by its event, its deadline, or because it was cancelled) may stay
        # here: it counts as none.
        self._read_wait: asyncio.Future[None] | None = None
        self._write_wait: asyncio.Future[None] | None = None
        self._read_due = self._write_due = math.inf

    # --- what the poller says ------------------------------------------------------------------

    def on_events(self, events: int) -> None:
        """An event comes again until it is seen to or no longer asked for."""
        wait = self._read_wait
        if events == EPOLLIN and wait is not None and not wait.done():
            self._read_wait = None
            self.readable = True
            wait.set_result(None)
            return
        if events & _OVER:
            self.over = True
            self.detach()  # errors cannot be left unasked for
            events = EPOLLIN | EPOLLOUT
        asked = self._interest
        if events & EPOLLIN:
            self.readable = True
            if not _end(wait):
                asked &= ~EPOLLIN
        if events & EPOLLOUT:
            _end(self._write_wait)
            asked &= ~EPOLLOUT
        if not self.over:
            self._ask(asked)

    def on_time(self, now: float) -> None:
        for wait, due in ((self._read_wait, self._read_due), (self._write_wait, self._write_due)):
            if due <= now and wait is not None and not wait.done():
                wait.set_exception(TimeoutError())

    def _ask(self, interest: int) -> None:
        before = self._interest
        if interest != before:
            self._interest = interest
            if before < 0:
                self._poller.add(self.fd, self, interest)
            else:
                self._poller.change(self.fd, interest)

    def _ask_also(self, event: int) -> None:
        self._ask(event if self._interest < 0 else self._interest | event)

    # --- for reading ---------------------------------------------------------------------------

    def _has_news(self) -> bool:
        """Whether there is something to read without a wait, for all that is known here."""
        if self.closed:
            raise ConnectionResetError("connection is closed")
        if self.readable or self.over or (self.tls and self.sock.pending()):  # type: ignore[attr-defined]
            self.readable = True
            return True
        return False

    def heed(self) -> None:
        """Watch although nobody waits: `readable` then says when data or the end have come."""
        if self.over:
            self.readable = True
        elif not self.readable and self._interest != EPOLLIN:
            self._ask_also(EPOLLIN)

    async def wait_readable(self, timeout: float, also: Self | None = None) -> None:
        """Wait until there is something to read here, or in `also`: `readable` says in which."""
        if (self.readable or self.tls or self.over or self.closed) and self._has_news():
            return
        if also is not None and also._has_news():
            return
        if self._interest != EPOLLIN:
            self._ask_also(EPOLLIN)
        self._read_wait = wait = self._loop.create_future()
        self._read_due = self._loop.time() + timeout
        if also is None:
            await wait
        else:
            await also._beside(wait)

    async def _beside(self, wait: "asyncio.Future[None]") -> None:
        """Let `wait`, another stream's, end when there is something to read here, too."""
        self._ask_also(EPOLLIN)
        self._read_wait = wait
        self._read_due = math.inf
        try:
            await wait
        finally:
            if self._read_wait is wait:
                self._read_wait = None

    async def wait_raw(self, timeout: float) -> None:
        """Wait for bytes on the socket itself, whatever TLS still holds."""
        self.readable = False
        if self.over:
            return
        self._ask_also(EPOLLIN)
        self._read_wait = wait = self._loop.create_future()
        self._read_due = self._loop.time() + timeout
        await wait

    def gone(self) -> bool:
        """Whether the peer has ended the connection, also when unread data came before that."""
        if self.closed or self.over:
            return True
        # The first byte of `struct tcp_info`.
        return self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) in _GONE

    # --- for writing ---------------------------------------------------------------------------

    async def wait_writable(self, timeout: float, also: Self | None = None) -> None:
        """Wait until a send may go on, or until `also` has something to read.

        The kernel lets a send go on when a good part of its buffer is free, for which a slow device
        may need much longer than `timeout`: as long as it takes bytes the wait goes on.
        """
        if self.closed:
            raise ConnectionResetError("connection is closed")
        queued = self.queued()
        looks = _LOOKS
        while True:
            try:
                await self._wait_writable(timeout / _LOOKS, also)
                return
            except TimeoutError:
                if self.closed:
                    raise  # in the same moment: the descriptor may be another's by now
                left = self.queued()
                looks = _LOOKS if left < queued else looks - 1
                queued = left
                if not looks:
                    raise

    def queued(self) -> int:
        """Bytes that the peer's kernel has not taken yet (SIOCOUTQ)."""
        count: int = _COUNT.unpack(fcntl.ioctl(self.fd, termios.TIOCOUTQ, bytes(4)))[0]
        return count

    async def _wait_writable(self, timeout: float, also: Self | None) -> None:
        if self.over or (also is not None and also._has_news()):
            return
        self._ask_also(EPOLLOUT)
        self._write_wait = wait = self._loop.create_future()
        self._write_due = self._loop.time() + timeout
        if also is None:
            await wait
        else:
            await also._beside(wait)

    # --- from outside --------------------------------------------------------------------------

    def detach(self) -> None:
        """Take the stream off the loop's watch, before another thread uses the socket."""
        if self._interest >= 0:
            self._interest = -1
            self._poller.remove(self.fd)

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


def _end(wait: "asyncio.Future[None] | None") -> bool:
    """Let a wait end, if there is one."""
    if wait is None or wait.done():
        return False
    wait.set_result(None)
    return True
