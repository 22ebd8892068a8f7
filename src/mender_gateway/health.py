"""Whether the gateway can do its work: the upstream answers and the cache can be written."""

import asyncio
from typing import NamedTuple

from mender_gateway.cache.cache import Cache
from mender_gateway.errors import GatewayError
from mender_gateway.http.client import Client, NoAnswer, Pool, Server

_FRESH = 5.0
"""Seconds for which one check answers all questions."""
_PATIENCE = 4.0


class Fault(NamedTuple):
    """What is wrong."""

    reason: str
    """For everybody who asks."""
    detail: str
    """For the log: with names and addresses."""


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
        self._fault: Fault | None = None
        self._checking: asyncio.Task[Fault | None] | None = None

    async def check(self) -> Fault | None:
        """What is wrong, or None; at most `_FRESH` seconds old."""
        if self._loop.time() - self._checked < _FRESH:
            return self._fault
        if self._checking is None:
            self._checking = self._loop.create_task(self._look())
        return await asyncio.shield(self._checking)

    async def _look(self) -> Fault | None:
        try:
            faults = await self._faults()
            self._fault = None
            if faults:
                reasons = "; ".join(fault.reason for fault in faults)
                details = "; ".join(f"{fault.reason}: {fault.detail}" for fault in faults)
                self._fault = Fault(reasons, details)
            self._checked = self._loop.time()
            return self._fault
        finally:
            self._checking = None

    async def _faults(self) -> list[Fault]:
        faults = []
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._ask_upstream()
        except TimeoutError:
            faults.append(Fault("upstream does not answer", f"within {_PATIENCE:g} s"))
        except (GatewayError, OSError) as error:
            faults.append(Fault("upstream does not answer", str(error)))
        if self._cache is not None:
            try:
                async with asyncio.timeout(_PATIENCE):
                    trouble = await self._cache.probe()
            except TimeoutError:
                trouble = "the disk does not answer"
            if trouble is not None:
                faults.append(Fault("cache is not writable", trouble))
        return faults

    async def _ask_upstream(self) -> None:
        """Any answer will do, also a refusal."""
        client = self._pool.take(self._upstream)
        if client is not None:
            try:
                await self._ask(client)
                return
            except NoAnswer:
                pass  # it had been idle and is of no more use
        await self._ask(await self._pool.connect(self._upstream))

    async def _ask(self, client: Client) -> None:
        """Ask over `client`, which is given back or discarded."""
        pool = self._pool
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
        finally:
            if alive:
                pool.give_back(client)
            else:
                pool.discard(client, abort=True)
