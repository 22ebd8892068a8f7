"""How much of the upstream one address may hold, so that a hostile device cannot take it all.

A streamed request holds a connection to the upstream while its device sends the body or takes the
answer, and slow devices may be slow. Beyond its share an address waits for itself, in order; others
do not notice. The share is large: many devices may come from one address.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from mender_gateway.errors import Overloaded
from mender_gateway.net.origins import origin_of, type_of_origin


class Shares:
    """Counts the requests of each origin that are on their way; belongs to the event loop."""

    def __init__(
        self,
        most: int,
        patience: float,
        exempt: Callable[[str], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`patience`: seconds to wait for a place; `exempt` addresses stand for many others."""
        self._most = most
        self._patience = patience
        self._exempt = exempt
        self._loop = loop
        self._held: dict[type_of_origin, int] = {}
        self._waiting: dict[type_of_origin, deque[asyncio.Future[None]]] = {}

    async def take(self, address: str) -> None:
        """Take a place; `give_back` must follow. Waits, and raises Overloaded."""
        if not self.take_at_once(address):
            await self._wait(origin_of(address))

    def take_at_once(self, address: str) -> bool:
        """Take a place if there is one; `give_back` must follow then."""
        origin = origin_of(address)
        held = self._held.get(origin, 0)
        if held >= self._most and not self._exempt(address):
            return False
        self._held[origin] = held + 1
        return True

    def give_back(self, address: str) -> None:
        self._release(origin_of(address))

    def _release(self, origin: type_of_origin) -> None:
        waiting = self._waiting.get(origin)
        while waiting:
            wait = waiting.popleft()
            if not wait.done():
                wait.set_result(None)  # the place is theirs now
                return
        held = self._held[origin] - 1
        if held:
            self._held[origin] = held
        else:
            del self._held[origin]

    async def _wait(self, origin: type_of_origin) -> None:
        waiting = self._waiting.setdefault(origin, deque())
        wait = self._loop.create_future()
        waiting.append(wait)
        try:
            async with asyncio.timeout(self._patience):
                await wait
        except TimeoutError:
            if not wait.done() or wait.cancelled():
                raise Overloaded("too many requests of one address at a time") from None
            # It was given in the same moment.
        except asyncio.CancelledError:
            if wait.done() and not wait.cancelled():
                self._release(origin)  # it was given, and is not wanted any more
            raise
        finally:
            if wait in waiting:
                waiting.remove(wait)
            if not waiting and self._waiting.get(origin) is waiting:
                del self._waiting[origin]
