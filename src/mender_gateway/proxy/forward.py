"""A request goes to the upstream and its answer comes back, both streamed, neither collected.

The path and query go byte for byte; fields are `http.headers`' business; framing is made anew. A
request is sent a second time only by the repeat rule: it went out on a reused connection that
ended before any byte of an answer, its kind may be repeated, and its body is still at hand. Before
the answer's head is out a fault becomes a status; afterwards it aborts the device's connection.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mender_gateway.config.settings import Limits
from mender_gateway.errors import BadGateway, BodyTooLarge, GatewayTimeout, RequestTimeout
from mender_gateway.http.chunked import LAST_CHUNK, MalformedChunk, frame
from mender_gateway.http.client import Client, Pool, Server
from mender_gateway.http.exchange import Exchange
from mender_gateway.http.headers import request_fields, response_fields
from mender_gateway.http.message import CHUNKED, Answer, joined, type_of_fields
from mender_gateway.proxy.shares import Shares

_ORIGIN = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"})
_KEPT = 64 * 1024
"""Largest body, in bytes, that is kept for sending a request again."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How requests of a route are forwarded."""

    repeatable: bool = False
    """May be sent again by the repeat rule, whatever its method."""
    download: bool = False
    """The answer may be large and slow: longer deadlines."""
    identity: bool = False
    """The answer is to be rewritten: the upstream must not compress it."""


PLAIN = Manner()


class Forwarder:
    """Sends the requests of devices to one upstream.

    `shares` bound what one address may hold of it; `forwarded_host` is what the server may build
    links from; `trusted` says whether a peer's own X-Forwarded fields count; `on_answer` sees every
    answer's head.
    """

    def __init__(
        self,
        pool: Pool,
        upstream: Server,
        limits: Limits,
        shares: Shares,
        *,
        forwarded_host: bytes,
        trusted: Callable[[str], bool],
        on_answer: Callable[[Answer], None],
    ) -> None:
        self.pool = pool
        self.upstream = upstream
        self.limits = limits
        self.shares = shares
        self._host = upstream.endpoint.authority.encode()
        self._forwarded_host = forwarded_host
        self._trusted = trusted
        self._on_answer = on_answer

    async def forward(self, exchange: Exchange, manner: Manner = PLAIN) -> None:
        """Send the exchange's request on and stream the answer back.

        Waits for a place in the share of the device's address; raises Overloaded, and what `ask`
        and `relay` do.
        """
        peer = exchange.peer
        if not self.shares.take_at_once(peer):
            await self.shares.take(peer)
        try:
            client, answer = await self.ask(exchange, manner)
            await self.relay(exchange, client, answer, manner)
        finally:
            self.shares.give_back(peer)

    # --- towards the upstream ------------------------------------------------------------------

    def head(
        self, exchange: Exchange, client: Client, manner: Manner, length: int, upgrade: bytes = b""
    ) -> bytes:
        """The request's head for the upstream; `length` is `message.CHUNKED` or the body's."""
        request = exchange.request
        fields = request_fields(
            request.fields,
            host=self._host,
            forwarded_for=exchange.peer.encode(),
            proto=exchange.scheme.encode(),
            forwarded_host=self._forwarded_host,
            peer_trusted=self._trusted(exchange.peer),
            version="1.1" if request.version == 11 else "1.0",
            identity_coding=manner.identity,
            upgrade=upgrade,
        )
        if length == CHUNKED:
            fields.append((b"Transfer-Encoding", b"chunked"))
        elif length or request.framing or b"content-length" in request.index:
            fields.append((b"Content-Length", b"%d" % length))
        if client.authorization:
            fields.append((b"Proxy-Authorization", client.authorization))
        start = request.method + b" " + client.prefix + request.target + b" HTTP/1.1"
        return joined(start, fields)

    def origin(self, exchange: Exchange) -> type_of_fields:
        """The fields that say on whose behalf the gateway asks something of its own."""
        said = [field for field in exchange.request.fields if field[0].lower() in _ORIGIN]
        return request_fields(
            said,
            host=self._host,
            forwarded_for=exchange.peer.encode(),
            proto=exchange.scheme.encode(),
            forwarded_host=self._forwarded_host,
            peer_trusted=self._trusted(exchange.peer),
        )

    async def ask(
        self,
        exchange: Exchange,
        manner: Manner = PLAIN,
        body: bytes | None = None,
        sent: Callable[[bytes], None] | None = None,
    ) -> tuple[Client, Answer]:
        """Send the request; the final answer's head and the connection that its body is on.

        `body`, when given, goes in place of the request's own, which was read before. `sent` is
        called, once the answer is there, with the device's body if it was small enough to be kept
        for a repetition. Raises
        BadGateway, GatewayTimeout, Overloaded, BadRequest, RequestTimeout, OSError when the device
        is gone.
        """
        request = exchange.request
        repeatable = manner.repeatable or request.method in (b"GET", b"HEAD")
        timeout = self.limits.download_first_byte if manner.download else self.limits.api_first_byte
        length = request.framing if body is None else len(body)
        stall = self.limits.write_stall
        kept = _Kept(lost=not repeatable or length > _KEPT)
        at_once = body or b""
        if length and body is None and (whole := exchange.take_body()) is not None:
            kept.add(whole)
            at_once = frame(whole) + LAST_CHUNK if length == CHUNKED else whole
        client = self.pool.take(self.upstream)
        while True:
            if client is None:
                client = await self.pool.connect(self.upstream)
            try:
                data = self.head(exchange, client, manner, length)
                try:
                    if length and not at_once:
                        complete = await self._send_body(exchange, client, data, kept)
                    else:
                        data += at_once
                        sent_now = client.stream.try_send(data)
                        complete = sent_now == len(data) or await client.send(
                            memoryview(data)[sent_now:], stall
                        )
                except ConnectionError as error:
                    # It may have answered before it hung up.
                    if isinstance(error, _DeviceGone) or not client.has_answer():
                        raise
                    complete = False
                if not client.buffer:
                    try:
                        await client.stream.wait_readable(timeout)
                    except TimeoutError:
                        raise GatewayTimeout("upstream did not answer in time") from None
                answer = client.answer_at_once(request.method) or await client.answer(
                    request.method, timeout
                )
            except OSError as error:
                self.pool.discard(client, abort=True)
                if isinstance(error, _DeviceGone):
                    raise
                if isinstance(error, TimeoutError):
                    raise GatewayTimeout("upstream takes no data") from error
                again = client.reused and not kept.lost and isinstance(error, ConnectionError)
                if not again:
                    raise BadGateway(f"upstream ended the connection: {error}") from error
                client = None
                continue
            except BaseException:
                self.pool.discard(client, abort=True)
                raise
            if not complete:
                answer.keep_alive = False
            self._on_answer(answer)
            if sent is not None and complete and not kept.lost:
                sent(bytes(kept.data))
            return client, answer

    async def _send_body(
        self, exchange: Exchange, client: Client, head: bytes, kept: "_Kept"
    ) -> bool:
        """Stream the device's body after `head`; whether all of it went out before an answer.

        What `kept` holds was sent before and goes first.
        """
        chunked = exchange.request.framing == CHUNKED
        stall = self.limits.write_stall
        data = head
        if kept.data:
            data += frame(bytes(kept.data)) if chunked else kept.data
        wire = exchange.wire
        while not wire.body_done:
            if not wire.buffer:
                # Nothing is here: what we have goes out, then device or upstream has the word.
                if data and not await client.send(data, stall):
                    return False
                data = b""
                if await self._answered_early(exchange, client):
                    return False
            try:
                piece = await exchange.read_body(self.limits.body_progress)
            except OSError as error:
                raise _DeviceGone(str(error)) from error
            if piece:
                kept.add(piece)
                data += frame(piece) if chunked else piece
                if len(data) > _KEPT:
                    if not await client.send(data, stall):
                        return False
                    data = b""
        if chunked:
            data += LAST_CHUNK
        return not data or await client.send(data, stall)

    async def _answered_early(self, exchange: Exchange, client: Client) -> bool:
        """Wait for the device's next bytes; True when the upstream answers before them."""
        progress = self.limits.body_progress
        device = exchange.stream
        while True:
            try:
                await exchange.invite_body(progress)
                await device.wait_readable(progress, also=client.stream)
            except TimeoutError:
                raise RequestTimeout from None
            except OSError as error:
                raise _DeviceGone(str(error)) from error
            if client.stream.readable and client.has_answer():
                return True
            if device.readable:
                return False

    # --- back to the device --------------------------------------------------------------------

    async def relay(
        self, exchange: Exchange, client: Client, answer: Answer, manner: Manner = PLAIN
    ) -> None:
        """Stream an answer to the device; the connection goes back to the pool or ends."""
        request_id = answer.index.get(b"x-men-requestid")
        exchange.request_id = request_id.decode("latin-1") if request_id else ""
        limits = self.limits
        length = answer.framing if answer.framing >= 0 else None
        if answer.framing == 0 and (exchange.request.method == b"HEAD" or answer.status == 304):
            declared = answer.index.get(b"content-length", b"")
            length = int(declared) if declared.isdigit() else None
        elif length is not None and not manner.download:
            body = client.take_whole()
            if body is not None:
                self._let_go(client, answer)
                fields = response_fields(answer.fields)
                rest = exchange.respond_at_once(
                    answer.status, fields, body, answer.reason, limits.write_stall
                )
                if rest:
                    await exchange.stream.send(rest, limits.write_stall)
                return
        silence = limits.download_first_byte if manner.download else limits.body_progress
        stall = limits.artifact_write_stall if manner.download else limits.write_stall
        done = False
        try:
            exchange.start(
                answer.status, response_fields(answer.fields), length, answer.reason, stall
            )
            while not client.body_done:
                if not client.buffer and not client.stream.readable and not exchange.started:
                    await exchange.flush()
                try:
                    piece = await client.read_body(silence)
                except (OSError, TimeoutError, MalformedChunk) as error:
                    raise self._broken(exchange, error) from error
                if piece:
                    await exchange.write(piece)
            done = True
            await exchange.end()
        finally:
            if done:
                self._let_go(client, answer)
            else:
                self.pool.discard(client, abort=True)

    def _let_go(self, client: Client, answer: Answer) -> None:
        """The answer was read to its end."""
        if answer.keep_alive:
            self.pool.give_back(client)
        else:
            self.pool.discard(client)

    @staticmethod
    def _broken(exchange: Exchange, error: Exception) -> Exception:
        if exchange.started:
            return ConnectionAbortedError(f"upstream answer broke off: {error}")
        if isinstance(error, TimeoutError):
            return GatewayTimeout("upstream stopped inside an answer")
        return BadGateway(f"upstream answer broke off: {error}")

    async def collect(self, client: Client, answer: Answer) -> bytes:
        """The whole body of an answer that is to be rewritten; the connection is given back.

        Raises BadGateway for one larger than `Limits.json_bytes`, and for broken ones.
        """
        whole = client.take_whole()
        if whole is not None:
            self._let_go(client, answer)
            if len(whole) > self.limits.json_bytes:
                raise BadGateway("upstream answer is too large to be rewritten")
            return whole
        body = bytearray()
        try:
            while piece := await client.read_body(self.limits.body_progress):
                if len(body) + len(piece) > self.limits.json_bytes:
                    raise BadGateway("upstream answer is too large to be rewritten")
                body += piece
        except TimeoutError as error:
            self.pool.discard(client, abort=True)
            raise GatewayTimeout("upstream stopped inside an answer") from error
        except (OSError, MalformedChunk) as error:
            self.pool.discard(client, abort=True)
            raise BadGateway(f"upstream answer broke off: {error}") from error
        except BaseException:
            self.pool.discard(client, abort=True)
            raise
        self._let_go(client, answer)
        return bytes(body)


async def read_whole_body(exchange: Exchange, limits: Limits) -> bytes:
    """A request's whole body; raises BodyTooLarge beyond `Limits.json_bytes`, Overloaded."""
    if exchange.request.framing > limits.json_bytes:
        raise BodyTooLarge
    whole = exchange.take_body()
    if whole is not None:
        if len(whole) > limits.json_bytes:
            raise BodyTooLarge
        exchange.keep(len(whole))
        return whole
    body = bytearray()  # no list: a piece may be one byte
    while piece := await exchange.read_body(limits.body_progress):
        if len(body) + len(piece) > limits.json_bytes:
            raise BodyTooLarge
        exchange.keep(len(piece))
        body += piece
    return bytes(body)


class _Kept:
    """The part of a body that was sent, for sending it again; `lost` when that cannot be."""

    __slots__ = ("data", "lost")

    def __init__(self, lost: bool) -> None:
        self.data = bytearray()
        self.lost = lost

    def add(self, piece: bytes) -> None:
        if not self.lost:
            self.data += piece
            if len(self.data) > _KEPT:
                self.lost = True
                self.data = bytearray()


class _DeviceGone(ConnectionError):
    """The device ended its request half-way."""
