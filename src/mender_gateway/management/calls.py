"""One request of the gateway's own to the Mender Server, and its whole answer.

The same pool and upstream as for devices' requests. A connection that had been idle and ended
before an answer is replaced once: every call here may be made twice without harm.
"""

import asyncio
from dataclasses import dataclass

from mender_gateway.config.settings import Limits
from mender_gateway.errors import GatewayError, Overloaded
from mender_gateway.http.chunked import MalformedChunk
from mender_gateway.http.client import Client, Pool, Server
from mender_gateway.http.message import Answer, type_of_fields

_PATIENCE = 30.0
"""Seconds for one call, connecting included: a device waits for it."""


class Unavailable(GatewayError):
    """The server could not be asked: the device may come again."""

    status = 503
    text = "the server cannot be asked to authorise this device now"
    retry_after = 15

    def __init__(
        self, text: str | None = None, retry_after: int | None = None, detail: str | None = None
    ) -> None:
        super().__init__(text, detail)
        if retry_after is not None:
            self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    index: dict[bytes, bytes]
    body: bytes

    @property
    def text(self) -> str:
        """The beginning of the body, for a log line."""
        return self.body[:300].decode("utf-8", "replace")


class Calls:
    """Sends requests to one upstream."""

    def __init__(self, pool: Pool, upstream: Server, limits: Limits) -> None:
        self._pool = pool
        self._upstream = upstream
        self._limits = limits

    async def send(
        self, method: bytes, path: bytes, fields: type_of_fields, body: bytes = b""
    ) -> Reply:
        """The answer, whatever its status. Raises Unavailable when there is none."""
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._send(method, path, fields, body)
        except TimeoutError:
            raise Unavailable("the server did not answer in time") from None
        except Overloaded:
            raise
        except (GatewayError, OSError, MalformedChunk) as error:
            raise Unavailable("the server cannot be asked", detail=str(error)) from error

    async def _send(self, method: bytes, path: bytes, fields: type_of_fields, body: bytes) -> Reply:
        pool = self._pool
        client = pool.take(self._upstream) or await pool.connect(self._upstream)
        while True:
            try:
                await client.send(
                    self._head(client, method, path, fields, len(body)) + body, _PATIENCE
                )
                answer = await client.answer(method, _PATIENCE)
                reply = Reply(answer.status, answer.index, await self._read(client))
            except ConnectionError:
                pool.discard(client, abort=True)
                if not client.reused:
                    raise
                client = await pool.connect(self._upstream)
                continue
            except BaseException:
                pool.discard(client, abort=True)
                raise
            self._settle(client, answer)
            return reply

    def _settle(self, client: Client, answer: Answer) -> None:
        if answer.keep_alive:
            self._pool.give_back(client)
        else:
            self._pool.discard(client)

    async def _read(self, client: Client) -> bytes:
        pieces: list[bytes] = []
        total = 0
        while piece := await client.read_body(_PATIENCE):
            total += len(piece)
            if total > self._limits.json_bytes:
                raise Unavailable("the server's answer is too large")
            pieces.append(piece)
        return b"".join(pieces)

    def _head(
        self, client: Client, method: bytes, path: bytes, fields: type_of_fields, length: int
    ) -> bytes:
        parts = [method, b" ", client.prefix, path, b" HTTP/1.1\r\n"]
        if not any(name == b"Host" for name, _ in fields):
            parts += (b"Host: ", self._upstream.endpoint.authority.encode(), b"\r\n")
        for name, value in fields:
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"User-Agent: mender-gateway\r\n")
        if length or method in (b"POST", b"PUT"):
            parts.append(b"Content-Length: %d\r\n" % length)
        if client.authorization:
            parts.append(b"Proxy-Authorization: %b\r\n" % client.authorization)
        parts.append(b"\r\n")
        return b"".join(parts)
