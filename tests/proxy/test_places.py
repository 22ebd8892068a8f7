"""Places in the pool: what becomes free goes to somebody who waits, whatever happens meanwhile."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mender_gateway.config.settings import Endpoint, Limits
from mender_gateway.errors import Overloaded
from mender_gateway.http.client import Pool, Server
from mender_gateway.net.outbound import Connector
from mender_gateway.net.poller import Poller

Body = Callable[[Pool, Server], Coroutine[Any, Any, None]]


def run(body: Body, connect: float) -> None:
    """With a pool that may have one connection to a server."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        poller = Poller(loop)
        limits = Limits(upstream_connections=1, connect=connect)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = Server(Endpoint("http", *listener.getsockname()), None)
            async with asyncio.timeout(20):
                await body(Pool(Connector(poller), limits, loop), server)
        poller.close()

    asyncio.run(main())


def test_a_place_that_is_given_to_somebody_who_is_gone_goes_on() -> None:
    async def body(pool: Pool, server: Server) -> None:
        client = await pool.connect(server)
        gone = asyncio.ensure_future(pool.connect(server))
        patient = asyncio.ensure_future(pool.connect(server))
        await asyncio.sleep(0)
        pool.discard(client)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        pool.discard(await patient)

    run(body, connect=3.0)


def test_who_waits_longer_than_the_deadline_is_told() -> None:
    async def body(pool: Pool, server: Server) -> None:
        client = await pool.connect(server)
        with pytest.raises(Overloaded):
            await pool.connect(server)
        pool.discard(client)
        pool.discard(await pool.connect(server))

    run(body, connect=0.2)
