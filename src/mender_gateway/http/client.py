"""The pool of connections to upstream and storage.

What to do is decided without waiting (`take`, `give_back`), I/O comes after. An idle connection is
watched: the end of it is noticed when it happens, and once more before use. Idle connections are
dropped after `Limits.upstream_idle`; the number of connections per server is bounded, and who
waits for one does so in order and with a deadline.
"""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass

import httptools

from mender_gateway.config.settings import Endpoint, Limits
from mender_gateway.errors import BadGateway, GatewayTimeout, HeadTooLarge, Overloaded
from mender_gateway.http.message import Answer
from mender_gateway.http.parser import HeadChecker, parse_answer
from mender_gateway.http.wire import Ended, Idle, Wire
from mender_gateway.net.outbound import Connection, Connector

_SURELY_ALIVE = 1.0
"""Seconds since its last answer for which the watch alone vouches for an idle connection."""
_INTERIM_ANSWERS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Server:
    """A server to send requests to, with the TLS context to use for it (https).

    Connections are pooled by identity: whoever talks to a server keeps its `Server`.
    """

    endpoint: Endpoint
    context: ssl.SSLContext | None


class NoAnswer(ConnectionError):
    """The connection ended before any byte of an answer."""


class Client(Wire):
    """One connection to a server: send a request, `answer`, read its body, give it back."""

    __slots__ = (
        "_checker",
        "_progress",
        "authorization",
        "idle_since",
        "limits",
        "prefix",
        "reused",
        "server",
    )

    def __init__(
        self,
        connection: Connection,
        server: Server,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(connection.stream, loop)
        self.server = server
        self.limits = limits
        self.prefix = connection.prefix
        """Goes before each target (absolute form, for an outbound proxy)."""
        self.authorization = connection.authorization
        self.reused = False
        self.idle_since = 0.0
        self._checker = HeadChecker(httptools.HttpResponseParser)

    async def send(self, data: bytes | memoryview, timeout: float) -> bool:
        """Send all of `data`; stops with False when the server answers before that."""
        stream = self.stream
        sent = stream.try_send(data)
        if sent == len(data):
            return True
        rest = memoryview(data)[sent:]
        while rest:
            await stream.wait_writable(timeout, also=stream)
            if stream.readable and self.has_answer():
                return False
            rest = rest[stream.try_send(rest) :]
        return True

    def has_answer(self) -> bool:
        """Whether bytes of an answer (or the end) are here; TLS control records do not count."""
        data = self.stream.try_receive()
        if data is None:
            return False
        if data:
            self.buffer += data
        else:
            self.stream.readable = True
        return True

    def answer_at_once(self, method: bytes) -> Answer | None:
        """The final answer's head if it is here; None: `answer` waits for it.

        Does not wait. Raises NoAnswer, BadGateway.
        """
        try:
            head = self.head_at_once(self.limits.head_bytes)
        except OSError as error:
            raise NoAnswer(str(error)) from error
        if head is None:
            return None
        answer = parse_answer(head, self._checker, method)
        if answer.status < 200:
            self.buffer = head + self.buffer
            return None
        self.start_body(answer.framing)
        return answer

    async def answer(self, method: bytes, timeout: float, *, upgrading: bool = False) -> Answer:
        """The final answer's head; interim ones (1xx) are dropped, 101 is one unless `upgrading`.

        `timeout` seconds for the first byte of each. Raises NoAnswer when the connection ended
        before any byte; BadGateway, GatewayTimeout.
        """
        limits = self.limits
        for number in range(_INTERIM_ANSWERS):
            try:
                head = await self.read_head(timeout, limits.body_progress, limits.head_bytes)
            except Idle:
                raise GatewayTimeout("upstream did not answer in time") from None
            except TimeoutError:
                raise GatewayTimeout("upstream stopped inside an answer's head") from None
            except HeadTooLarge:
                raise BadGateway("upstream answered with too large a head") from None
            except OSError as error:
                if number or isinstance(error, Ended):
                    raise BadGateway(f"upstream ended an answer half-way: {error}") from error
                raise NoAnswer(str(error)) from error
            if head is None:
                if number:
                    raise BadGateway("upstream ended the connection after an interim answer")
                raise NoAnswer("upstream ended the connection without an answer")
            answer = parse_answer(head, self._checker, method)
            if answer.status >= 200:
                self.start_body(answer.framing)
                return answer
            if answer.status == 101:
                if upgrading:
                    return answer
                raise BadGateway("upstream switches protocols without being asked")
        raise BadGateway("upstream sends interim answers without end")

    def close(self) -> None:
        self.stream.close()


class Pool:
    """All connections of one event loop to upstream and storage servers."""

    def __init__(
        self, connector: Connector, limits: Limits, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._connector = connector
        self._limits = limits
        self._loop = loop
        self._idle: dict[Server, list[Client]] = {}
        self._open: dict[Server, int] = {}
        self._waiting: dict[Server, deque[asyncio.Future[None]]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def take(self, server: Server) -> Client | None:
        """A live idle connection, the last used one, or None. Does not wait."""
        idle = self._idle.get(server)
        while idle:
            client = idle.pop()
            stream = client.stream
            if (
                stream.readable or self._loop.time() - client.idle_since > _SURELY_ALIVE
            ) and stream.ended():
                self.discard(client)
                continue
            client.reused = True
            return client
        return None

    async def connect(self, server: Server) -> Client:
        """A new connection. Raises BadGateway, GatewayTimeout or Overloaded, with the reason."""
        limits = self._limits
        while self._open.get(server, 0) >= limits.upstream_connections:
            await self._wait_for_place(server)
        self._open[server] = self._open.get(server, 0) + 1
        endpoint = server.endpoint
        try:
            connection = await self._connector.connect(
                endpoint.host, endpoint.port, server.context, limits.connect
            )
        except BaseException as error:
            self._vacate(server)
            if isinstance(error, TimeoutError):
                raise GatewayTimeout("no connection within the deadline", str(endpoint)) from error
            if isinstance(error, OSError):
                reason = error.strerror or str(error)
                if isinstance(error, ssl.SSLCertVerificationError):
                    reason = f"certificate refused: {error.verify_message}"
                raise BadGateway("cannot connect", f"{endpoint}: {reason}") from error
            raise
        return Client(connection, server, limits, self._loop)

    def give_back(self, client: Client) -> None:
        """Keep a connection whose last answer was read to its end and may be followed by more."""
        if client.buffer or not client.body_done or client.stream.closed:
            self.discard(client)
            return
        client.stream.heed()
        client.idle_since = self._loop.time()
        idle = self._idle.get(client.server)
        if idle is None:
            self._idle[client.server] = [client]
        else:
            idle.append(client)
        waiting = self._waiting.get(client.server)
        if waiting:
            self._wake(waiting)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._limits.upstream_idle, self._drop_idle)

    def discard(self, client: Client, *, abort: bool = False) -> None:
        """End a connection; with `abort` by RST, so that the server stops sending at once."""
        if not client.stream.closed:
            client.stream.abort() if abort else client.stream.close()
            self._vacate(client.server)

    def leave(self, client: Client) -> None:
        """Let a connection be its user's alone: it takes no place any more and never comes back."""
        self._vacate(client.server)

    def close(self) -> None:
        """Drop the idle connections; the others end with who uses them."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for idle in self._idle.values():
            while idle:
                self.discard(idle.pop())

    def _vacate(self, server: Server) -> None:
        left = self._open[server] - 1
        if left:
            self._open[server] = left
        else:
            del self._open[server]
        waiting = self._waiting.get(server)
        if waiting:
            self._wake(waiting)

    @staticmethod
    def _wake(waiting: deque[asyncio.Future[None]]) -> None:
        while waiting:
            wait = waiting.popleft()
            if not wait.done():
                wait.set_result(None)
                return

    async def _wait_for_place(self, server: Server) -> None:
        waiting = self._waiting.setdefault(server, deque())
        if len(waiting) >= self._limits.connections:
            raise Overloaded
        idle = self._idle.get(server)
        if idle:
            self.discard(idle.pop())
            return
        wait = self._loop.create_future()
        waiting.append(wait)
        try:
            async with asyncio.timeout(self._limits.connect):
                await wait
        except TimeoutError:
            if not wait.done() or wait.cancelled():
                raise Overloaded("all upstream connections are in use") from None
            # A place became free in the same moment.
        except asyncio.CancelledError:
            if wait.done() and not wait.cancelled():
                self._wake(waiting)  # it is for the next one
            raise
        finally:
            if wait in waiting:
                waiting.remove(wait)
            if not waiting:
                self._waiting.pop(server, None)

    def _drop_idle(self) -> None:
        self._sweep = None
        now = self._loop.time()
        oldest = now
        for server, idle in list(self._idle.items()):
            while idle and now - idle[0].idle_since >= self._limits.upstream_idle:
                self.discard(idle.pop(0))
            if idle:
                oldest = min(oldest, idle[0].idle_since)
            else:
                del self._idle[server]
        if self._idle:
            delay = max(0.1, oldest + self._limits.upstream_idle - now)
            self._sweep = self._loop.call_later(delay, self._drop_idle)
