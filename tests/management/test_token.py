"""How long a management token is used; the clock is the test's, all else is real."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from mender_gateway.config.settings import Endpoint, Limits, Mtls
from mender_gateway.http.client import Pool, Server
from mender_gateway.management.calls import Calls, Unavailable
from mender_gateway.management.login import Login, NotAllowed
from mender_gateway.net.outbound import Connector
from mender_gateway.net.poller import Poller
from mender_gateway.observe.log import Log
from tests.management.test_login import REFUSED, answer, token
from tests.mtls.fleet import LOGIN
from tests.support.stage import Stage, running_stage

SETTINGS = Mtls(enabled=True, mender_username="user", mender_password="password")


class Clock:
    """The event loop, with a clock that can be put on."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ahead = 0.0

    def time(self) -> float:
        return self.loop.time() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)


class Place:
    """A login that asks the stage; use it inside a running loop."""

    def __init__(self, stage: Stage) -> None:
        loop = asyncio.get_running_loop()
        self.clock = Clock()
        self.pool = Pool(Connector(Poller(loop), None, None, ""), Limits(), loop)
        server = Server(Endpoint("http", "127.0.0.1", stage.server.port), None)
        calls = Calls(self.pool, server, Limits())
        clock: Any = self.clock
        self.login = Login(calls, SETTINGS, Log("fatal"), clock)

    async def token(self) -> str:
        return await self.login.token([])


@pytest.fixture
def stage() -> Iterator[Stage]:
    with running_stage() as found:
        yield found


def test_a_token_is_renewed_a_minute_before_its_end(stage: Stage) -> None:
    async def main() -> None:
        place = Place(stage)
        stage.answer(LOGIN, answer(200, token(3600).encode()))
        await place.token()
        place.clock.ahead = 3600 - 61
        await place.token()
        assert len(stage.of(LOGIN)) == 1
        place.clock.ahead = 3600 - 59
        await asyncio.gather(*(place.token() for _ in range(20)))
        assert len(stage.of(LOGIN)) == 2
        place.pool.close()

    asyncio.run(main())


def test_wrong_credentials_are_tried_once_a_minute(stage: Stage) -> None:
    async def main() -> None:
        place = Place(stage)
        stage.answer(LOGIN, REFUSED)
        for minute in range(3):
            place.clock.ahead = minute * 60.5
            for _ in range(5):
                with pytest.raises(NotAllowed):
                    await place.token()
            assert len(stage.of(LOGIN)) == minute + 1
        place.pool.close()

    asyncio.run(main())


def test_a_server_that_is_down_is_asked_again_after_two_seconds(stage: Stage) -> None:
    async def main() -> None:
        place = Place(stage)
        stage.answer(LOGIN, answer(503, b""))
        for number in range(3):
            place.clock.ahead = number * 2.5
            for _ in range(5):
                with pytest.raises(Unavailable):
                    await place.token()
            assert len(stage.of(LOGIN)) == number + 1
        place.clock.ahead = 10
        stage.answer(LOGIN, answer(200, token(3600).encode()))
        assert await place.token() == token(3600)
        place.pool.close()

    asyncio.run(main())


def test_a_token_that_is_refused_by_many_at_once_leads_to_one_login(stage: Stage) -> None:
    async def main() -> None:
        place = Place(stage)
        stage.answer(LOGIN, answer(200, token(3600).encode()))
        first = await place.token()
        place.login.worked(first)
        stage.answer(LOGIN, answer(200, token(7200).encode()))

        async def refused() -> str:
            place.login.refused(first)
            return await place.token()

        assert set(await asyncio.gather(*(refused() for _ in range(50)))) == {token(7200)}
        assert len(stage.of(LOGIN)) == 2
        place.pool.close()

    asyncio.run(main())
