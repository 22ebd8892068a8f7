"""Deployment instructions: the answers to `next`, in which the artifact's link becomes a local one.

A storage link becomes a signed link of the gateway's own, a link to the server itself keeps path
and query under GatewayURL, any other stays, and the log says which line of the configuration would
change that. Everything else in the answer passes as it came.
"""

from mender_gateway.artifacts.clock import Clock
from mender_gateway.artifacts.deployment_document import Rewritten, deployment_of, rewrite
from mender_gateway.artifacts.identity import object_id
from mender_gateway.artifacts.links import Foreign, Own, Storage, classify
from mender_gateway.artifacts.origin import Seen
from mender_gateway.artifacts.reports import Rollouts
from mender_gateway.artifacts.signing import Signer
from mender_gateway.artifacts.whitelist import Whitelist
from mender_gateway.config.settings import Endpoint
from mender_gateway.http.exchange import Exchange
from mender_gateway.http.headers import response_fields
from mender_gateway.observe.log import Log
from mender_gateway.proxy.forward import Forwarder, Manner

_SIGNED = 256
_SIGNED_FOR = 10.0
"""Seconds for which a local link is given out again. Servers sign to the second: when a fleet asks
at once, many instructions bring the same storage link."""

NEXT = Manner(repeatable=True, identity=True)


class Deployments:
    """Handles the requests for the next deployment.

    `base` is GatewayURL, `own_hosts` are (host, port) of GatewayURL and of the upstream,
    `link_lifetime` the seconds for which local links are valid.
    """

    def __init__(
        self,
        forwarder: Forwarder,
        signer: Signer,
        whitelist: Whitelist,
        seen: Seen,
        clock: Clock,
        log: Log,
        rollouts: Rollouts,
        *,
        base: Endpoint,
        own_hosts: frozenset[tuple[str, int]],
        link_lifetime: float,
    ) -> None:
        self._forwarder = forwarder
        self._signer = signer
        self._whitelist = whitelist
        self._seen = seen
        self._clock = clock
        self._log = log
        self._rollouts = rollouts
        self._base = str(base)
        self._own_name = base.host
        self._own_hosts = own_hosts
        self._link_lifetime = link_lifetime
        self._signed: dict[str, tuple[str, Rewritten]] = {}
        """What became of the latest storage links: (object, local link)."""

    async def next(self, exchange: Exchange) -> None:
        """Forward the poll; rewrite the link in a 200 answer, pass every other one unchanged."""
        forwarder, peer = self._forwarder, exchange.peer
        if not forwarder.shares.take_at_once(peer):
            await forwarder.shares.take(peer)
        try:
            client, answer = await forwarder.ask(exchange, NEXT)
            if answer.status != 200 or exchange.request.method == b"HEAD":
                await forwarder.relay(exchange, client, answer, NEXT)
                return
            coding = answer.index.get(b"content-encoding", b"identity")
            if coding.lower() != b"identity":
                self._warn("the server compressed deployment instructions against our request")
                await forwarder.relay(exchange, client, answer, NEXT)
                return
            body = await forwarder.collect(client, answer)
        finally:
            forwarder.shares.give_back(peer)
        objects: list[str] = []
        document = rewrite(body, lambda url: self._decide(url, objects))
        if len(objects) == 1 and (deployment := deployment_of(body)) is not None:
            self._rollouts.note(deployment, objects[0])
        if document.reason is not None:
            self._warn("deployment instructions pass as they are", reason=document.reason)
        exchange.request_id = answer.index.get(b"x-men-requestid", b"").decode("latin-1")
        fields = response_fields(answer.fields)
        await exchange.respond(200, fields, document.body, answer.reason)

    def _decide(self, url: str, objects: list[str]) -> Rewritten | None:
        """What becomes of a link; adds the object's id to `objects` when storage has it."""
        if (signed := self._signed.get(url)) is not None:
            identity, local = signed
            left = (local.expire or 0.0) - self._clock.now()
            if 0.0 <= self._link_lifetime - left < _SIGNED_FOR:
                objects.append(identity)
                return local
            del self._signed[url]
        match classify(url, self._whitelist, self._own_hosts):
            case Storage(origin):
                identity = object_id(origin)
                self._seen.note(identity, url, origin)
                objects.append(identity)
                expires = int(self._clock.now() + self._link_lifetime)
                local = Rewritten(self._base + self._signer.sign(url, expires, identity), expires)
                self._signed[url] = (identity, local)
                if len(self._signed) > _SIGNED:
                    del self._signed[next(iter(self._signed))]
                return local
            case Own(target, entry):
                if entry is not None and entry != self._own_name:
                    self._log.once_per(
                        3600.0,
                        f"own store {entry}",
                        "warn",
                        "artifacts on the server's own host are forwarded as any request, not "
                        "cached, and cut off from devices that are slow to store them",
                        add_to_DomainWhitelist=entry,
                    )
                return Rewritten(self._base + target)
            case Foreign(reason, entry):
                advice = {"add_to_DomainWhitelist": entry} if entry is not None else {}
                self._log.once_per(
                    3600.0,
                    f"foreign link {entry}",
                    "warn",
                    "artifact link is left as it is, devices fetch it for themselves",
                    reason=reason,
                    **advice,
                )
                return None

    def _warn(self, text: str, **fields: str) -> None:
        self._log.once_per(3600.0, text, "warn", text, **fields)
