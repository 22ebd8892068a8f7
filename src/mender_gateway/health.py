"""Whether the gateway can do its work: the upstream answers and the cache can be written."""

import asyncio

from mender_gateway.cache.cache import Cache
from mender_gateway.errors import GatewayError
from mender_gateway.http.client import NoAnswer, Pool, Server

_FRESH = 5.0
"""Seconds for which one check answers all questions."""
_PATIENCE = 4.0


class Health:
    """One check at a time, however many ask."""

    def __init__(
        self, pool: Pool, upstream: Server, cache: Cache | None, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._pool = pool
        self._upstream = upstream
        self._cache = cache
        self._loop = loop
        self._checked = float("-inf")
        self._fault: str | None = None
        self._checking: asyncio.Task[str | None] | None = None

    async def check(self) -> str | None:
        """What is wrong, in words, or None; at most `_FRESH` seconds old."""
        if self._loop.time() - self._checked < _FRESH:
            return self._fault
        if self._checking is None:
            self._checking = self._loop.create_task(self._look())
        return await asyncio.shield(self._checking)

    async def _look(self) -> str | None:
        faults = []
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._ask_upstream()
        except TimeoutError:
            faults.append("upstream does not answer")
        except (GatewayError, OSError) as error:
            faults.append(f"upstream does not answer: {error}")
        if self._cache is not None:
            try:
                async with asyncio.timeout(_PATIENCE):
                    trouble = await self._cache.probe()
            except TimeoutError:
                trouble = "the disk does not answer"
            if trouble is not None:
                faults.append(f"cache is not writable: {trouble}")
        self._fault = "; ".join(faults) or None
        self._checked = self._loop.time()
        self._checking = None
        return self._fault

    async def _ask_upstream(self) -> None:
        """Any answer will do, also a refusal."""
        pool = self._pool
        client = pool.take(self._upstream) or await pool.connect(self._upstream)
        alive = False
        try:
            head = b"HEAD %b/ HTTP/1.1\r\nHost: %b\r\nUser-Agent: mender-gateway\r\n%b\r\n" % (
                client.prefix,
                self._upstream.endpoint.authority.encode(),
                b"Proxy-Authorization: %b\r\n" % client.authorization
                if client.authorization
                else b"",
            )
            await client.send(head, _PATIENCE)
            answer = await client.answer(b"HEAD", _PATIENCE)
            alive = answer.keep_alive
        except NoAnswer:
            if client.reused:
                client = await pool.connect(self._upstream)
            else:
                raise
        finally:
            if alive:
                pool.give_back(client)
            else:
                pool.discard(client, abort=True)
