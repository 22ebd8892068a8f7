"""The life of a device's connection: handshake, one exchange after the other, a clean end.

Pipelined requests are answered in order because the next head is read only when the answer before
it is done. The handler is the room above; what it raises before the answer's head is out becomes a
status, afterwards the connection is aborted.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httptools

from mender_gateway.config.settings import Limits
from mender_gateway.errors import BadRequest, GatewayError, HeadTooLarge, RequestTimeout
from mender_gateway.http.exchange import Budget, Exchange
from mender_gateway.http.message import Request
from mender_gateway.http.parser import HeadChecker, parse_request
from mender_gateway.http.wire import Ended, Idle, MalformedChunk, Wire
from mender_gateway.net.bulk import Bulk
from mender_gateway.net.listener import Places
from mender_gateway.net.stream import Stream

if TYPE_CHECKING:
    from mender_gateway.net.gate import Gate

_DRAIN = 64 * 1024
"""Bytes of an unread request body that are read to save the connection."""
_DRAIN_SECONDS = 5.0

type_of_handler = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Reports:
    """Where a server's events go."""

    answered: Callable[[Exchange], None]
    """After each exchange, also one that was aborted (`ended` is then false)."""
    aborted: Callable[[Exchange, Exception], None]
    """An answer was cut off after its head was out."""
    handshake_failed: Callable[[Stream, Exception], None]
    """Also of a client that was refused for its certificate."""
    crashed: Callable[[Exchange, Exception], None]
    """A fault of our own ended an exchange."""


class Server:
    """Serves the connections of one listener; `handler` answers each exchange."""

    def __init__(
        self,
        handler: type_of_handler,
        *,
        scheme: str,
        limits: Limits,
        bulk: Bulk,
        places: Places,
        reports: Reports,
        loop: asyncio.AbstractEventLoop,
        budget: Budget,
        gate: "Gate | None" = None,
    ) -> None:
        """`gate`: connections arrive plain and must pass it (mutual TLS)."""
        self._budget = budget
        self._gate = gate
        self._handler = handler
        self._scheme = scheme
        self._limits = limits
        self._bulk = bulk
        self._places = places
        self._reports = reports
        self._loop = loop
        self.draining = False
        """Set at shutdown: answers then say that the connection closes."""

    async def serve(self, stream: Stream) -> None:
        """One connection from accept to end; raises nothing but CancelledError."""
        try:
            gate = self._gate
            if gate is not None or stream.tls:
                self._places.idle[stream] = None
                try:
                    if gate is not None:
                        await gate.admit(stream, self._limits.handshake)
                    else:
                        await stream.handshake(self._limits.handshake)
                except (OSError, TimeoutError) as error:
                    if stream.closed:
                        return  # by us
                    self._reports.handshake_failed(stream, error)
                    if isinstance(error, TimeoutError):
                        stream.abort()
                    else:
                        await stream.linger()  # what it has sent must not cost it our alert
                    return
                finally:
                    self._places.idle.pop(stream, None)
            await self._exchanges(stream)
        except asyncio.CancelledError:
            stream.abort()
            raise
        except (OSError, TimeoutError, ssl.SSLError):
            stream.abort()
        finally:
            if self._gate is not None:
                self._gate.left(stream)

    async def _exchanges(self, stream: Stream) -> None:
        limits = self._limits
        wire = Wire(stream, self._loop)
        checker = HeadChecker(httptools.HttpRequestParser)
        idle = self._places.idle
        wait = limits.first_request
        while not self.draining:
            fault: GatewayError | None = None
            request = _NO_REQUEST
            if not wire.buffer:
                idle[stream] = None
            try:
                if not wire.buffer:
                    try:
                        await stream.wait_readable(wait)
                    except TimeoutError:
                        return
                head = wire.head_at_once(limits.head_bytes)
                if head is None:
                    head = await wire.read_head(wait, limits.request_head, limits.head_bytes)
                    if head is None:
                        return
                request = parse_request(head, checker)
            except (Ended, Idle):
                return
            except (BadRequest, HeadTooLarge) as error:
                fault = error
            except TimeoutError:
                fault = RequestTimeout()
            finally:
                idle.pop(stream, None)
            exchange = Exchange(
                request, wire, self._scheme, self._bulk, limits.write_stall, self._budget
            )
            if fault is not None:
                await self._end_with(exchange, fault)
                return
            wire.start_body(request.framing)
            exchange.keep_alive = request.keep_alive and not self.draining
            if not await self._answer(exchange):
                return
            wait = limits.keep_alive
        if wire.buffer or stream.readable:
            await stream.linger()  # requests that will not be answered must not cost an answer

    async def _end_with(self, exchange: Exchange, fault: GatewayError) -> None:
        exchange.keep_alive = False
        exchange.route = "malformed"
        try:
            await exchange.refuse(fault)
        finally:
            self._reports.answered(exchange)
        await exchange.stream.linger()

    async def _answer(self, exchange: Exchange) -> bool:
        """Let the handler answer; whether the connection can take another request."""
        try:
            try:
                await self._handler(exchange)
            except GatewayError as error:
                if exchange.started:
                    self._reports.aborted(exchange, error)
                    exchange.stream.abort()
                    return False
                await exchange.refuse(error)
            except (OSError, TimeoutError) as error:  # the device is gone, or takes nothing
                exchange.fault = str(error) or type(error).__name__
                if exchange.started and not exchange.upgraded:
                    self._reports.aborted(exchange, error)
                exchange.stream.abort()
                return False
            except Exception as error:
                self._reports.crashed(exchange, error)
                if exchange.started:
                    exchange.stream.abort()
                    return False
                await exchange.refuse(GatewayError())
            if exchange.upgraded:
                return False
            if not exchange.ended:
                exchange.stream.abort()
                return False
        finally:
            exchange.release()
            self._reports.answered(exchange)
        if not exchange.wire.body_done and not (
            exchange.keep_alive and await self._drain(exchange)
        ):
            await exchange.stream.linger()
            return False
        if not exchange.keep_alive:
            if exchange.wire.buffer or exchange.stream.readable:
                await exchange.stream.linger()  # there is more, which nobody will read
            else:
                exchange.stream.close()
            return False
        return True

    async def _drain(self, exchange: Exchange) -> bool:
        taken = 0
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while taken <= _DRAIN:
                    data = await exchange.wire.read_body(_DRAIN_SECONDS)
                    if not data:
                        return True
                    taken += len(data)
        except (OSError, TimeoutError, MalformedChunk):
            pass
        return False


_NO_REQUEST = Request(b"-", b"-", 11, [], {}, 0, False)
