"""Places of an address are neither lost nor given twice, whatever happens at the same moment."""

import asyncio
import time

import pytest

from mender_gateway.errors import Overloaded
from mender_gateway.proxy.shares import Shares


def nobody(address: str) -> bool:
    return False


def test_a_place_that_is_given_at_the_last_moment_is_taken() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        shares = Shares(1, 0.05, nobody, loop)
        await shares.take("a")
        waiting = asyncio.ensure_future(shares.take("a"))
        # Both the place and the end of patience come while the loop is busy elsewhere.
        loop.call_later(0.04, shares.give_back, "a")
        loop.call_later(0.01, time.sleep, 0.2)
        await waiting
        shares.give_back("a")
        await asyncio.wait_for(shares.take("a"), 1)

    asyncio.run(main())


def test_a_place_that_is_given_to_somebody_who_is_gone_goes_on() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        shares = Shares(1, 5, nobody, loop)
        await shares.take("a")
        first = asyncio.ensure_future(shares.take("a"))
        second = asyncio.ensure_future(shares.take("a"))
        await asyncio.sleep(0)
        shares.give_back("a")
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await asyncio.wait_for(second, 1)

    asyncio.run(main())


def test_who_waits_is_served_in_order_and_who_is_patient_enough() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        shares = Shares(2, 0.05, nobody, loop)
        for _ in range(2):
            await shares.take("a")
        await shares.take("b")
        with pytest.raises(Overloaded):
            await shares.take("a")
        order: list[int] = []

        async def come(number: int) -> None:
            await shares.take("a")
            order.append(number)
            shares.give_back("a")

        comers = [asyncio.ensure_future(come(number)) for number in range(5)]
        await asyncio.sleep(0)
        shares.give_back("a")
        await asyncio.gather(*comers)
        assert order == [0, 1, 2, 3, 4]

    asyncio.run(main())
