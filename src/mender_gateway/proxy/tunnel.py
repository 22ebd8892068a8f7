"""Upgraded connections: after 101 both sides' bytes pass as they are, for as long as they like.

No byte of the device goes upstream before the upstream agreed, and any other answer leaves the
connection with HTTP. There is no idle timeout: an idle WebSocket of a device is silent for hours,
and TCP keep-alive finds out about peers that vanished.
"""

import asyncio
import math
import socket

from mender_gateway.errors import BadGateway, Overloaded
from mender_gateway.http.client import Client, NoAnswer
from mender_gateway.http.exchange import Exchange
from mender_gateway.http.headers import response_fields, tokens
from mender_gateway.http.message import Request, joined
from mender_gateway.net.stream import Stream, Truncated
from mender_gateway.proxy.forward import PLAIN, Forwarder

_HALF_CLOSED = 30.0
"""Seconds that one direction lives on after the other has ended."""


_OTHER_HTTP = frozenset({b"h2c", b"h2", b"h3", b"http", b"tls"})
"""Protocols in which requests would follow that nobody here sees."""


def opens_tunnel(request: Request) -> bool:
    """Whether a request is to be tunnelled after 101; any other goes without its Upgrade.

    One that merely offers another HTTP beside something else is not: the server could choose it.
    """
    if not request.upgrade or request.framing:
        return False
    protocols = {token.partition(b"/")[0] for token in tokens([request.upgrade])}
    return bool(protocols) and protocols.isdisjoint(_OTHER_HTTP)


class Tunnels:
    """Opens tunnels through one upstream and owns the open ones."""

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder
        self.open: set[tuple[Stream, Stream]] = set()
        self._closed = False

    async def tunnel(self, exchange: Exchange) -> None:
        """Pass a request that `opens_tunnel` on, and after 101 all that follows.

        Until then it is a request as any other, and needs a place in its address's share.
        """
        if self._closed:
            raise Overloaded("the gateway is stopping")
        shares = self._forwarder.shares
        await shares.take(exchange.peer)
        try:
            opened = await self._open(exchange)
        finally:
            shares.give_back(exchange.peer)
        if opened is not None:
            await self._hold(exchange, *opened)

    async def _open(self, exchange: Exchange) -> tuple[Client, bytes] | None:
        """Ask the upstream: its connection and the head for the device; None when it was answered
        with something else than 101, which then has reached the device.
        """
        forwarder = self._forwarder
        request = exchange.request
        client = await forwarder.pool.connect(forwarder.upstream)
        try:
            head = forwarder.head(exchange, client, PLAIN, 0, request.upgrade)
            await client.send(head, forwarder.limits.write_stall)
            answer = await client.answer(
                request.method, forwarder.limits.api_first_byte, upgrading=True
            )
        except (NoAnswer, OSError) as error:
            forwarder.pool.discard(client, abort=True)
            raise BadGateway(f"upstream ended the connection: {error}") from error
        except BaseException:
            forwarder.pool.discard(client, abort=True)
            raise
        if answer.status != 101:
            await forwarder.relay(exchange, client, answer)
            return None
        chosen = answer.index.get(b"upgrade", b"")
        if not chosen or not set(tokens([chosen])) <= set(tokens([request.upgrade])):
            forwarder.pool.discard(client, abort=True)
            raise BadGateway("upstream switches to a protocol that was not asked for")
        # As many as devices may connect, and for days: they must not take requests their places.
        forwarder.pool.leave(client)
        fields = response_fields(answer.fields, upgrade=chosen)
        return client, joined(
            b"HTTP/1.1 101 %b" % (answer.reason or b"Switching Protocols"), fields
        )

    async def _hold(self, exchange: Exchange, client: Client, head: bytes) -> None:
        """Pass bytes until one side ends; the connection is nobody else's."""
        stall = self._forwarder.limits.write_stall
        exchange.status = 101
        exchange.started = exchange.ended = exchange.upgraded = True
        pair = (exchange.stream, client.stream)
        self.open.add(pair)
        try:
            first = head + client.buffer
            await exchange.stream.send(first, stall)
            if exchange.wire.buffer:
                await client.stream.send(exchange.wire.buffer, stall)
            if not self._closed:
                await self._pass_both(exchange, *pair)
        finally:
            self.open.discard(pair)
            exchange.stream.close()
            client.close()

    async def _pass_both(self, exchange: Exchange, device: Stream, upstream: Stream) -> None:
        up = asyncio.ensure_future(self._pass(device, upstream, None))
        down = asyncio.ensure_future(self._pass(upstream, device, exchange))
        try:
            done, _ = await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if all(task.exception() is None for task in done):
                await asyncio.wait({up, down}, timeout=_HALF_CLOSED)
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _pass(self, source: Stream, sink: Stream, counted: Exchange | None) -> None:
        while True:
            try:
                data = await source.receive(math.inf)
            except Truncated:
                data = b""
            if not data:
                break
            await sink.send(data, self._forwarder.limits.write_stall)
            if counted is not None:
                counted.sent += len(data)
        if sink.tls:
            raise ConnectionAbortedError("TLS is not ended in one direction alone")
        socket.socket.shutdown(sink.sock, socket.SHUT_WR)

    def close(self) -> None:
        """End all tunnels politely: close_notify under TLS, then FIN, to both sides; open none."""
        self._closed = True
        for device, upstream in list(self.open):
            device.close()
            upstream.close()
