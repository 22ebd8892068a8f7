"""The server's front: routing, token checks, and the fields that every answer carries.

Services reply with a status, a value and their own fields; the front adds the request id, the
date, the security and caching fields of the real server, in its order, and compresses. Which
requests are answered by the front itself (bad tokens, unknown paths) shows in their fields.
"""

import gzip
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from mender_gateway.demo.answers import Answer, http_date
from mender_gateway.demo.apis import tokens
from mender_gateway.demo.apis.devauth import Device, DeviceAuth
from mender_gateway.demo.apis.gotext import from_json, to_json
from mender_gateway.demo.link import Tunnel
from mender_gateway.demo.wire import BodyTooLarge, Request

BODY_LIMIT = 1024 * 1024
"""Bytes; auth requests, inventory, deployment logs."""

COMPRESSED_FROM = 1024
"""Bytes from which the front compresses for clients that accept it."""

CHUNKED_FROM = 2049
"""Bytes from which a service's uncompressed answer comes chunked."""

JSON_TYPE = "application/json; charset=utf-8"

_SERVICES = re.compile(
    r"/api/(devices|management)/v\d+/"
    r"(authentication|inventory|deployments|deviceconnect|deviceconfig|devauth|useradm)/"
)
_PLAIN_ERRORS = ("deployments", "deviceconnect", "deviceconfig")
"""Services whose routing errors carry no request id."""

_DOWNLOAD = "/api/devices/v1/deployments/download/"

_SECURITY = [
    ("Strict-Transport-Security", "max-age=31536000; includeSubDomains; preload"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Xss-Protection", "1; mode=block"),
]
_GUI = b"<html>mender gui would be here (any unrouted path goes to the GUI)</html>"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a service says; the front makes an `Answer` of it."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    bare: bool = False
    """Without a request id."""
    fixed: bool = False
    """Always with Content-Length."""
    tunnel: Callable[[Tunnel], Awaitable[None]] | None = None

    @classmethod
    def json(cls, value: object, status: int = 200, *headers: tuple[str, str]) -> "Reply":
        return cls(status, to_json(value), (("Content-Type", JSON_TYPE), *headers))


NO_CONTENT = Reply(204)


class ApiError(Exception):
    """Ends a request with an error of the services' shape."""

    def __init__(self, status: int, text: str, metadata: object = None, bare: bool = False) -> None:
        super().__init__(text)
        self.status, self.text, self.metadata, self.bare = status, text, metadata, bare


@dataclass(frozen=True, slots=True)
class Call:
    """A routed request: its parameters, and who makes it."""

    request: Request
    request_id: str
    params: dict[str, str] = field(default_factory=dict)
    holder: Device | None = None
    token: str = ""

    @property
    def device(self) -> Device:
        """The device whose token came with the call; the front lets nobody else in."""
        if self.holder is None:
            raise ApiError(401, "unauthorized")
        return self.holder

    @property
    def query(self) -> dict[str, str]:
        return self.request.exchange.query

    async def body(self, limit: int = BODY_LIMIT) -> bytes:
        try:
            return await self.request.read(limit)
        except BodyTooLarge:
            raise ApiError(413, "http: request body too large") from None

    async def json(self, prefix: str = "") -> Any:
        """The decoded body; 400 with `prefix` before the decoder's words otherwise."""
        body = await self.body()
        try:
            return from_json(body)
        except ValueError as error:
            raise ApiError(400, f"{prefix}{error}") from None


Service = Callable[[Call], Awaitable[Reply]]


class Routes:
    """Path patterns with `{name}` segments, and the service behind each method."""

    def __init__(self) -> None:
        self._routes: list[tuple[re.Pattern[str], dict[str, Service]]] = []

    def add(self, method: str, pattern: str, service: Service) -> None:
        compiled = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern))
        for known, methods in self._routes:
            if known.pattern == compiled.pattern:
                methods[method] = service
                return
        self._routes.append((compiled, {method: service}))

    def find(self, path: str) -> tuple[dict[str, Service], dict[str, str]] | None:
        """The methods of the path's route and the values of its segments."""
        for pattern, methods in self._routes:
            if match := pattern.fullmatch(path):
                return methods, match.groupdict()
        return None


class Front:
    """Everything in front of the services."""

    def __init__(
        self, routes: Routes, devauth: DeviceAuth, clock: Callable[[], float] = time.time
    ) -> None:
        self._routes = routes
        self._devauth = devauth
        self._clock = clock
        self._open = {
            "/api/devices/v1/authentication/auth_requests",
            "/api/management/v1/useradm/auth/login",
        }

    async def answer(self, request: Request) -> Answer:
        path = request.path
        service = _SERVICES.match(path)
        if service is None:
            headers = [
                ("Content-Type", "text/html; charset=utf-8"),
                ("Content-Length", str(len(_GUI))),
            ]
            return Answer(200, [*headers, self._date()], _GUI)
        request_id = request.header("X-MEN-RequestID") or str(uuid.uuid4())
        holder, token = None, ""
        if path not in self._open and not path.startswith(_DOWNLOAD):
            token = _bearer(request)
            if tokens.claims_of(token) is None:
                return self._no_token(request_id, token)
            holder = self._devauth.holder_of(token)
            user = service[1] == "management"
            if not (self._is_user(token) if user else holder):
                return Answer(
                    401,
                    [("X-Men-Requestid", request_id), ("Content-Length", "0"), self._date()],
                )
        try:
            reply = await self._dispatch(request, request_id, holder, token, service[2])
        except ApiError as error:
            reply = self._error(error, request_id)
        return self._finished(reply, request, request_id, service[1] == "management")

    async def _dispatch(
        self, request: Request, request_id: str, holder: Device | None, token: str, service: str
    ) -> Reply:
        bare = service in _PLAIN_ERRORS
        found = self._routes.find(request.path)
        if found is None:
            return _routing_error(404, "not found", request_id, bare)
        methods, params = found
        if request.method == "OPTIONS":
            allowed = [*sorted(methods), "OPTIONS"]
            return Reply(200, headers=tuple(("Allow", method) for method in allowed), bare=True)
        if request.method not in methods:
            return _routing_error(405, "method not allowed", request_id, bare)
        call = Call(request, request_id, params, holder, token)
        return await methods[request.method](call)

    def _finished(
        self, reply: Reply, request: Request, request_id: str, management: bool
    ) -> Answer:
        download = request.path.startswith(_DOWNLOAD)
        fields = list(reply.headers)
        if not reply.bare:
            fields.append(("X-Men-Requestid", request_id))
        fields.append(self._date())
        if management or download:
            fields += _SECURITY
        body = reply.body
        if reply.tunnel is not None:
            return Answer(reply.status, list(reply.headers), tunnel=reply.tunnel)
        compressed = False
        if not download:
            fields.append(("Vary", "Accept-Encoding"))
            compressed = len(body) >= COMPRESSED_FROM and _accepts_gzip(request)
        if compressed:
            body = gzip.compress(body, mtime=0)
            fields.append(("Content-Encoding", "gzip"))
        if reply.status == 204:
            return Answer(204, fields)
        if len(body) >= CHUNKED_FROM and not compressed and not reply.fixed:
            fields.append(("Transfer-Encoding", "chunked"))
        else:
            fields.append(("Content-Length", str(len(body))))
        return Answer(reply.status, fields, body)

    def _no_token(self, request_id: str, token: str) -> Answer:
        text = (
            "identity: incorrect token format" if token else "Authorization not present in header"
        )
        body = to_json({"error": text, "request_id": request_id})
        fields = [
            ("WWW-Authenticate", 'Bearer realm="ManagementJWT"'),
            ("X-Men-Requestid", request_id),
            ("Content-Type", JSON_TYPE),
            ("Content-Length", str(len(body))),
            self._date(),
        ]
        return Answer(401, fields, body)

    def _is_user(self, token: str) -> bool:
        claims = tokens.claims_of(token) or {}
        return claims.get("mender.user") is True and tokens.is_valid(token, self._clock())

    def _error(self, error: ApiError, request_id: str) -> Reply:
        if error.bare:
            return _routing_error(error.status, error.text, request_id, bare=True)
        value: dict[str, object] = {"error": error.text}
        if error.metadata is not None:
            value["metadata"] = error.metadata
        return Reply.json(value | {"request_id": request_id}, error.status)

    def _date(self) -> tuple[str, str]:
        return ("Date", http_date(self._clock()))


def _routing_error(status: int, text: str, request_id: str, bare: bool) -> Reply:
    value = {"error": text} if bare else {"error": text, "request_id": request_id}
    return Reply(status, to_json(value), (("Content-Type", JSON_TYPE),), bare=bare)


def _bearer(request: Request) -> str:
    scheme, _, token = (request.header("authorization") or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _accepts_gzip(request: Request) -> bool:
    accepted = (request.header("accept-encoding") or "").lower()
    words = (item.strip() for item in accepted.split(","))
    return any(w.partition(";")[0] == "gzip" and not w.endswith("q=0") for w in words)
