"""From a client certificate to an authorised device: the auth requests of devices under mutual TLS.

Nothing goes to the server that was not signed by the key it names: some versions act on a request
before they look at its signature. Then the server decides: the request is forwarded as it is, and
any answer but 401 goes back as it is. Only after a 401 the gateway asks the management API to
authorise that key, forwards the same bytes once more, and returns that answer. Work upstream is
bounded, equal requests share it, and what was decided is remembered.
"""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum

from mender_gateway.config.settings import Mtls
from mender_gateway.devices.auth_request import (
    LARGEST,
    Ambiguous,
    AuthRequest,
    Unreadable,
    is_signed,
    parse,
)
from mender_gateway.devices.claims import disagreement
from mender_gateway.devices.decision import Accept, Verdict, decide
from mender_gateway.devices.memory import Decision, Memory
from mender_gateway.errors import (
    BadGateway,
    BadRequest,
    Forbidden,
    GatewayError,
    GatewayTimeout,
    Overloaded,
    Unauthorized,
)
from mender_gateway.http.exchange import Exchange
from mender_gateway.http.headers import response_fields
from mender_gateway.http.message import Answer
from mender_gateway.management.calls import Unavailable
from mender_gateway.management.devices import DeviceAuthentication, Refusal
from mender_gateway.management.login import Forbids, NotAllowed
from mender_gateway.net.certificate import ClientCertificate
from mender_gateway.observe.log import Log
from mender_gateway.proxy.forward import Forwarder, Manner, read_whole_body

_FORWARDED_AT_ONCE = 64
"""Auth requests on their way to the server at a time."""
_AUTHORISED_AT_ONCE = 8
"""Devices for which the management API is asked at a time."""
_QUEUE_SECONDS = 60.0
_LOOKS = 3
_SIGNATURE = b"x-men-signature"
_AUTH = Manner(repeatable=True)


class Outcome(StrEnum):
    """What became of an auth request; the label of a metric."""

    ANSWERED = "answered"
    """The server's first answer was not 401."""
    AUTHORISED = "authorised"
    ROTATED = "rotated"
    ALREADY = "already-authorised"
    REJECTED = "rejected"
    REMEMBERED = "remembered"
    BAD_SIGNATURE = "bad-signature"
    WEAK_KEY = "weak-key"
    UNREADABLE = "unreadable"
    AMBIGUOUS = "ambiguous"
    CONTRADICTION = "contradicts-certificate"
    NOT_ALLOWED = "no-credentials"
    REFUSED = "refused-by-server"
    WITHDRAWN = "certificate-withdrawn"
    """The certificate was revoked while its device was being authorised."""
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class _Whole:
    """An answer with its body."""

    answer: Answer
    body: bytes


class _Withdrawn(Forbidden):
    text = "the certificate was revoked meanwhile"


def _still_valid(exchange: Exchange) -> None:
    """Raises _Withdrawn: the gate takes the certificate from a connection that it cuts."""
    if exchange.certificate is None:
        raise _Withdrawn


class Provisioning:
    """Answers `POST …/auth_requests` of devices with a certificate."""

    def __init__(
        self,
        forwarder: Forwarder,
        devices: DeviceAuthentication,
        settings: Mtls,
        log: Log,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._forwarder = forwarder
        most = min(LARGEST, forwarder.limits.json_bytes)
        self._limits = replace(forwarder.limits, json_bytes=most)
        self._devices = devices
        self._settings = settings
        self._log = log
        self._loop = loop
        self._memory = Memory()
        self._running: dict[Hashable, asyncio.Task[Outcome]] = {}
        self._forwarding = asyncio.Semaphore(_FORWARDED_AT_ONCE)
        self._authorising = asyncio.Semaphore(_AUTHORISED_AT_ONCE)
        self.outcomes: dict[Outcome, int] = {}

    async def authenticate(self, exchange: Exchange) -> None:
        """Answer one auth request; raises GatewayError for what the gateway itself refuses."""
        certificate = exchange.certificate
        if certificate is None:
            raise Forbidden("a client certificate is required")
        body = await read_whole_body(exchange, self._limits)
        request = self._read(body, certificate)
        self._verify(exchange, request, body, certificate)
        began = self._loop.time()
        whole = await self._forward(exchange, body)
        if whole.answer.status != 401:
            self._count(Outcome.ANSWERED)
        elif await self._authorise(exchange, request, body, certificate, began):
            whole = await self._forward_again(exchange, body)
        await self._relay(exchange, whole)

    def close(self) -> None:
        for task in self._running.values():
            task.cancel()

    # --- the request ---------------------------------------------------------------------------

    def _read(self, body: bytes, certificate: ClientCertificate) -> AuthRequest:
        """The request, which agrees with its certificate; raises BadRequest, Forbidden."""
        settings = self._settings
        try:
            request = parse(body)
        except Ambiguous as error:
            self._count(Outcome.AMBIGUOUS)
            raise BadRequest(f"ambiguous auth request: {error}") from error
        except Unreadable as error:
            self._count(Outcome.UNREADABLE)
            raise BadRequest(f"auth request: {error}") from error
        wrong = disagreement(
            request,
            certificate,
            matching_key=settings.require_matching_key,
            fields=settings.identity_from_certificate,
        )
        if wrong is not None:
            self._count(Outcome.CONTRADICTION)
            self._say("auth request contradicts its certificate", wrong, request, certificate)
            raise Forbidden(wrong)
        return request

    def _verify(
        self,
        exchange: Exchange,
        request: AuthRequest,
        body: bytes,
        certificate: ClientCertificate,
    ) -> None:
        """Raises BadRequest for a request without signature, Unauthorized for a wrong one."""
        signatures = [
            value for name, value in exchange.request.fields if name.lower() == _SIGNATURE
        ]
        if len(signatures) == 1 and is_signed(request, body, signatures[0]):
            return
        self._count(Outcome.BAD_SIGNATURE)
        self._say(
            "auth request is not signed by the key it names",
            "it goes no further",
            request,
            certificate,
        )
        if not signatures:
            raise BadRequest("missing request signature header")
        raise Unauthorized("the request is not signed by the key it names")

    async def _forward(self, exchange: Exchange, body: bytes) -> _Whole:
        async with _place(self._forwarding):
            client, answer = await self._forwarder.ask(exchange, _AUTH, body)
            return _Whole(answer, await self._forwarder.collect(client, answer))

    async def _forward_again(self, exchange: Exchange, body: bytes) -> _Whole:
        """Within an authorisation, where trouble is no answer: raises Unavailable, Overloaded."""
        try:
            return await self._forward(exchange, body)
        except (BadGateway, GatewayTimeout) as error:
            raise Unavailable("the server cannot be asked", detail=str(error)) from error

    async def _relay(self, exchange: Exchange, whole: _Whole) -> None:
        answer = whole.answer
        exchange.request_id = answer.index.get(b"x-men-requestid", b"").decode("latin-1")
        exchange.start(
            answer.status, response_fields(answer.fields), len(whole.body), answer.reason
        )
        await exchange.write(whole.body)
        await exchange.end()

    # --- authorising ---------------------------------------------------------------------------

    async def _authorise(
        self,
        exchange: Exchange,
        request: AuthRequest,
        body: bytes,
        certificate: ClientCertificate,
        began: float,
    ) -> bool:
        """Whether the request is worth forwarding once more; raises Unavailable, Overloaded."""
        if request.weakness is not None:
            self._count(Outcome.WEAK_KEY)
            self._say("a device's key is too weak", request.weakness, request, certificate)
            return False
        key = request.digest
        known = self._memory.recall(key, self._loop.time())
        if known is not None and (
            known.decision is Decision.REJECTED or self._settings.enable_cache
        ):
            # Authorised since this request went out: the server's answer was older than that.
            if known.decision is Decision.AUTHORISED and known.since >= began:
                return True
            if known.decision is Decision.AUTHORISED:
                self._say(
                    "the server refuses a device that was authorised a moment ago",
                    "it is looked into after a minute; has somebody just rejected it?",
                    request,
                    certificate,
                )
            self._count(Outcome.REMEMBERED)
            return False
        task = self._running.get(key)
        if task is None:
            task = self._loop.create_task(self._settle(exchange, request, body, certificate))
            self._running[key] = task
            task.add_done_callback(lambda done: self._settled(key, done))
        outcome = await asyncio.shield(task)
        return outcome in (Outcome.AUTHORISED, Outcome.ROTATED, Outcome.ALREADY)

    async def _settle(
        self,
        exchange: Exchange,
        request: AuthRequest,
        body: bytes,
        certificate: ClientCertificate,
    ) -> Outcome:
        """Let the server authorise the key, remember and report what came of it."""
        decision: Decision | None = None
        try:
            async with _place(self._authorising):
                outcome = await self._ask_server(exchange, request, body, certificate)
        except _Withdrawn:
            self._count(Outcome.WITHDRAWN)
            raise
        except NotAllowed as error:
            outcome = Outcome.NOT_ALLOWED  # what is wrong, and how to mend it, is in the log
            decision = Decision.REFUSED if isinstance(error, Forbids) else None
        except Refusal as error:
            outcome, decision = Outcome.REFUSED, Decision.REFUSED
            self._say("the server refuses to authorise a device", str(error), request, certificate)
        except GatewayError:
            self._count(Outcome.UNAVAILABLE)
            raise
        self._count(outcome)
        if outcome is Outcome.REJECTED:
            decision = Decision.REJECTED
            self._say(
                "a rejected device asks to be let in and is left alone",
                "accept it at the Mender Server if it is to come back",
                request,
                certificate,
            )
        elif outcome in (Outcome.AUTHORISED, Outcome.ROTATED, Outcome.ALREADY):
            decision = Decision.AUTHORISED
        if decision is not None:
            self._memory.remember(request.digest, decision, self._loop.time())
        return outcome

    def _settled(self, key: Hashable, task: asyncio.Task[Outcome]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # those who wait have it; they may be gone

    async def _ask_server(
        self,
        exchange: Exchange,
        request: AuthRequest,
        body: bytes,
        certificate: ClientCertificate,
    ) -> Outcome:
        origin = self._forwarder.origin(exchange)
        devices = self._devices
        _still_valid(exchange)
        device_id = await devices.preauthorise(request.identity, request.pubkey, origin)
        if device_id is None:
            self._log.info("device preauthorised", **_named(request, certificate))
            return Outcome.AUTHORISED
        for _ in range(_LOOKS):
            device = await devices.device(device_id, origin)
            if device is None:
                break
            match decide(device, request.public_key):
                case Verdict.LEAVE:
                    return Outcome.REJECTED
                case Verdict.NOTHING_TO_DO:
                    return Outcome.ALREADY
                case Verdict.UNKNOWN_KEY:
                    await self._forward_again(exchange, body)  # the server records the key by this
                case Accept(set_id, replaces):
                    _still_valid(exchange)
                    if await devices.accept(device_id, set_id, origin):
                        return self._accepted(device_id, request, certificate, replaces)
        raise Unavailable("the server changed its mind about this device meanwhile")

    def _accepted(
        self,
        device_id: str,
        request: AuthRequest,
        certificate: ClientCertificate,
        replaces: tuple[str, ...],
    ) -> Outcome:
        if not replaces:
            self._log.info("device accepted", device=device_id, **_named(request, certificate))
            return Outcome.AUTHORISED
        self._log.warn(
            "device key rotated: its earlier key is rejected by the server from now on",
            device=device_id,
            old_key=" ".join(replaces),
            **_named(request, certificate),
        )
        return Outcome.ROTATED

    # --- reports -------------------------------------------------------------------------------

    def _count(self, outcome: Outcome) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def _say(
        self, what: str, detail: str, request: AuthRequest, certificate: ClientCertificate
    ) -> None:
        """At most once in ten minutes for one certificate and key."""
        key = f"{what} {certificate.serial} {request.fingerprint}"
        self._log.once_per(600.0, key, "warn", what, detail=detail, **_named(request, certificate))


def _named(request: AuthRequest, certificate: ClientCertificate) -> dict[str, object]:
    return {
        "identity": request.canonical[:300],
        "key": request.fingerprint,
        "subject": certificate.subject,
        "serial": certificate.serial_text,
        "issuer": certificate.issuer,
    }


@asynccontextmanager
async def _place(places: asyncio.Semaphore) -> AsyncIterator[None]:
    """One of the places, waited for within bounds; raises Overloaded."""
    try:
        async with asyncio.timeout(_QUEUE_SECONDS):
            await places.acquire()
    except TimeoutError:
        raise Overloaded("too many devices ask to be authorised") from None
    try:
        yield
    finally:
        places.release()
