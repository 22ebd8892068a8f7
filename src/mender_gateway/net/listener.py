"""Listening sockets: accept, bound the number of connections, hand each to its own task.

When every place is taken, the connection that has been idle longest makes room; when none is idle,
accepting pauses and the kernel's queue holds the newcomers. Within that one address has a bound of
its own: what comes beyond it takes the place of its own idle connections, or is refused. Each
connection's task is owned here, from accept to the end of the room above.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice

from mender_gateway.net.origins import origin_of, type_of_origin
from mender_gateway.net.poller import Poller
from mender_gateway.net.stream import Stream

_ACCEPT_BATCH = 64
_PAUSE_AFTER_ERROR = 0.5
"""Seconds without accepting after the process ran out of descriptors or memory."""
_LOOKED_AT = 256
"""Idle connections, of those idle longest, among which a crowded address's own is looked for."""


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket. An empty host is every interface, IPv4 alone where IPv6 is absent.

    Raises OSError, socket.gaierror for a name that does not resolve.
    """
    if host:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        candidates = [(family, address)]
    else:
        candidates = [(socket.AF_INET6, ("::", port)), (socket.AF_INET, ("0.0.0.0", port))]
    for number, (family, address) in enumerate(candidates):
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            if number + 1 < len(candidates):
                continue
            raise
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # What is set here holds for every accepted socket (Linux).
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(sock)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if not host else 1)
            sock.bind(address)
            sock.listen(1024)
            return sock
        except OSError as error:
            sock.close()
            no_ipv6 = error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
            if not (no_ipv6 and number + 1 < len(candidates)):
                raise
    raise AssertionError("unreachable")


class Places:
    """The bounds on connections of all listeners together, and who could give up a place."""

    def __init__(
        self,
        limit: int,
        of_address: int,
        exempt: Callable[[str], bool],
        on_refused: Callable[[str], None],
    ) -> None:
        """`of_address`: places that one address may take, unless it is `exempt`."""
        self.limit = limit
        self.taken = 0
        self._of_address = of_address
        self._exempt = exempt
        self._on_refused = on_refused
        self._held: dict[type_of_origin, int] = {}
        self.idle: dict[Stream, None] = {}
        """Connections between two requests, the longest idle one first."""

    def has_room(self) -> bool:
        """Whether there is a place, or somebody who could give up one."""
        return self.taken < self.limit or bool(self.idle)

    def take(self, address: str) -> bool:
        """A place for one that came, by cutting an idle connection if need be.

        False when its address has too many; then it must be refused.
        """
        origin = origin_of(address)
        held = self._held.get(origin, 0)
        if held >= self._of_address and not self._exempt(address):
            if not self._cut(
                stream for stream in self._oldest() if origin_of(stream.peer) == origin
            ):
                self._on_refused(address)
                return False
        elif self.taken >= self.limit:
            self._cut(self._oldest())
        self._held[origin] = held + 1
        self.taken += 1
        return True

    def leave(self, address: str) -> None:
        """The place of one that had got it is free again."""
        self.taken -= 1
        origin = origin_of(address)
        held = self._held[origin] - 1
        if held:
            self._held[origin] = held
        else:
            del self._held[origin]

    def _oldest(self) -> Iterator[Stream]:
        return islice(self.idle, _LOOKED_AT)

    def _cut(self, candidates: Iterator[Stream]) -> bool:
        stream = next(candidates, None)
        if stream is None:
            return False
        del self.idle[stream]
        stream.cut()
        return True


class Listener:
    """One listening socket on the loop; `serve` is the room above, given each new stream."""

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        places: Places,
        serve: Callable[[Stream], Awaitable[None]],
        context: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self.sock = sock
        self.address: tuple[str, int] = sock.getsockname()[:2]
        self.tasks: set[asyncio.Task[None]] = set()
        self._loop = loop = poller.loop
        self._poller = poller
        self._places = places
        self._serve = serve
        self._context = context
        self._closed = False
        loop.add_reader(sock.fileno(), self._on_acceptable)

    def _on_acceptable(self) -> None:
        for _ in range(_ACCEPT_BATCH):
            if not self._places.has_room():
                self._pause()
                return
            try:
                sock, address = self.sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._pause()
                    return
                continue  # the peer is gone already
            peer = address[0].removeprefix("::ffff:")
            if self._places.take(peer):
                self._begin(sock, peer)
            else:
                sock.close()

    def _begin(self, sock: socket.socket, peer: str) -> None:
        try:
            sock.setblocking(False)
            if self._context is not None:
                sock = self._context().wrap_socket(
                    sock,
                    server_side=True,
                    do_handshake_on_connect=False,
                    suppress_ragged_eofs=False,
                )
        except OSError:
            sock.close()
            self._places.leave(peer)
            return
        stream = Stream(sock, self._poller, peer)
        task = self._loop.create_task(self._own(stream))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _own(self, stream: Stream) -> None:
        try:
            await self._serve(stream)
        finally:
            stream.close()
            self._places.idle.pop(stream, None)
            self._places.leave(stream.peer)

    def _pause(self) -> None:
        self._loop.remove_reader(self.sock.fileno())
        self._loop.call_later(_PAUSE_AFTER_ERROR, self._resume)

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self.sock.fileno(), self._on_acceptable)

    def close(self) -> None:
        """Accept no more; the connections live on in `tasks`."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self.sock.fileno())
            self.sock.close()


def keep_alive(sock: socket.socket) -> None:
    """TCP keep-alive: a peer that vanished is noticed after two minutes of silence."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
