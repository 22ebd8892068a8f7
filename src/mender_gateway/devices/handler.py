"""Inventory of devices behind the gateway, marked as belonging to its system."""

import asyncio
from collections.abc import Sequence

from mender_gateway.config.settings import InventoryAttribute
from mender_gateway.devices.inventory import inject
from mender_gateway.http.exchange import Exchange
from mender_gateway.proxy.forward import Forwarder, Manner, read_whole_body

_AT_ONCE = 64 * 1024
"""Bytes of a report that are worked on without leaving the event loop."""

REPORT = Manner(repeatable=True)


class Inventory:
    """Handles inventory reports (PUT and PATCH) when DeviceSystem is enabled."""

    def __init__(
        self, forwarder: Forwarder, system_id: str, defaults: Sequence[InventoryAttribute]
    ) -> None:
        self._forwarder = forwarder
        self._system_id = system_id
        self._defaults = defaults

    async def report(self, exchange: Exchange) -> None:
        """Forward a report with our attributes; one that is no attribute list goes unchanged."""
        body = await read_whole_body(exchange, self._forwarder.limits)
        if len(body) > _AT_ONCE:
            body = await asyncio.to_thread(inject, body, self._system_id, self._defaults)
        else:
            body = inject(body, self._system_id, self._defaults)
        client, answer = await self._forwarder.ask(exchange, REPORT, body)
        await self._forwarder.relay(exchange, client, answer)
