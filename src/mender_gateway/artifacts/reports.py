"""Devices report how their deployments go; a failure makes the artifact a suspect.

The instructions that pass through say which stored object a deployment brings; a status report says
that it failed. The report goes to the server byte for byte as any other request, and is looked at
only when the server has taken it. The table is small and lost with the process: it is a hint.
"""

from collections.abc import Callable

import msgspec

from mender_gateway.http.exchange import Exchange
from mender_gateway.proxy.forward import Forwarder, Manner

_REPORT = Manner(repeatable=True)
_REMEMBERED = 4096
_LONGEST_ID = 128


class _Status(msgspec.Struct):
    status: str = ""


class Rollouts:
    """Which object a deployment brings; the deployments heard of longest ago are forgotten."""

    def __init__(self) -> None:
        self._objects: dict[str, str] = {}

    def note(self, deployment: str, object_id: str) -> None:
        if not deployment or len(deployment) > _LONGEST_ID:
            return
        self._objects.pop(deployment, None)
        self._objects[deployment] = object_id
        if len(self._objects) > _REMEMBERED:
            del self._objects[next(iter(self._objects))]

    def object_of(self, deployment: str) -> str | None:
        return self._objects.get(deployment)


class Reports:
    """Handles `PUT …/deployments/{id}/status`; `suspect` is given the objects that failed."""

    def __init__(
        self, forwarder: Forwarder, rollouts: Rollouts, suspect: Callable[[str], None]
    ) -> None:
        self._forwarder = forwarder
        self._rollouts = rollouts
        self._suspect = suspect
        self._decoder = msgspec.json.Decoder(_Status)

    async def status(self, exchange: Exchange, path: bytes) -> None:
        """Forward a report; `path` is the normalised path of its request."""
        deployment = path.split(b"/")[-2].decode("latin-1")
        object_id = self._rollouts.object_of(deployment)
        if object_id is None:
            await self._forwarder.forward(exchange, _REPORT)
            return
        sent: list[bytes] = []
        forwarder, peer = self._forwarder, exchange.peer
        if not forwarder.shares.take_at_once(peer):
            await forwarder.shares.take(peer)
        try:
            client, answer = await forwarder.ask(exchange, _REPORT, sent=sent.append)
            if answer.status in (200, 204) and any(self._is_failure(body) for body in sent):
                self._suspect(object_id)
            await forwarder.relay(exchange, client, answer, _REPORT)
        finally:
            forwarder.shares.give_back(peer)

    def _is_failure(self, body: bytes) -> bool:
        try:
            return self._decoder.decode(body).status.lower() == "failure"
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
