"""The management token: one login at a time, kept until it expires or is refused.

However many devices wait, they wait for one login. Wrong credentials are reported once a minute,
and as seldom tried: a server locks accounts that are hammered. How long a token lives is taken from
its own dates, not from the local clock, which may be wrong on a small gateway.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import Callable

import msgspec

from mender_gateway.config.settings import Mtls
from mender_gateway.http.message import type_of_fields
from mender_gateway.management.calls import Calls, Reply, Unavailable
from mender_gateway.observe.log import Log

_LOGIN = b"/api/management/v1/useradm/auth/login"
_PAUSE = 60.0
"""Seconds without another try after the server has refused the credentials."""
_BREATH = 2.0
"""Seconds without another try after a login that the server did not answer."""
_EARLY = 60.0
"""Seconds before its end at which a token is given up."""
_TOKEN = re.compile(r"[A-Za-z0-9_.~+/=-]{1,16384}")
_LARGEST_SECRET = 64 * 1024
_WITHOUT_PASSWORD = (
    "create a personal access token for a user who may manage devices, and set "
    "Features.mTLS.MenderToken or MenderTokenFile"
)


class NotAllowed(Exception):
    """The server does not let the gateway in, or not do this; trying again soon is no use."""


class Forbids(NotAllowed):
    """The server knows the gateway's user, who may not do this."""


class _Dates(msgspec.Struct):
    exp: float | None = None
    iat: float | None = None


class _SignOn(msgspec.Struct):
    """What Mender's login answers, with status 200, for a user of single sign-on."""

    kind: str
    """`sso/saml` or `sso/oidc`."""


class Login:
    """Owns the token of one management user."""

    def __init__(
        self, calls: Calls, settings: Mtls, log: Log, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._calls = calls
        self._settings = settings
        self._log = log
        self._loop = loop
        self._token: str | None = None
        self._until = float("inf")
        self._fresh = False
        """The token has not been accepted by any call yet."""
        self._running: asyncio.Task[str] | None = None
        self._paused_until = float("-inf")
        self._why: Callable[[], Exception] = NotAllowed
        self.logins = 0

    async def token(self, origin: type_of_fields) -> str:
        """A token that should be good; waits for a login when there is none.

        `origin` are the fields that say on whose behalf. Raises NotAllowed or Unavailable.
        """
        now = self._loop.time()
        if self._token is not None and now < self._until:
            return self._token
        if now < self._paused_until:
            raise self._why()
        if self._running is None:
            self._running = self._loop.create_task(self._obtain(origin))
            self._running.add_done_callback(self._done)
        return await asyncio.shield(self._running)

    def worked(self, token: str) -> None:
        """The server took the token."""
        if token == self._token:
            self._fresh = False

    def refused(self, token: str) -> None:
        """The server refused the token with 401; one that was new is not followed by a login."""
        if token != self._token:
            return  # somebody else was told before
        self._token = None
        if self._fresh:
            personal = bool(self._settings.mender_token or self._settings.mender_token_file)
            self._pause(
                "the Mender Server refuses the management token",
                _WITHOUT_PASSWORD if personal else "check the server's log for the reason",
            )

    async def look_again(self) -> None:
        """The files of the secrets may have changed: try at once, and take another token."""
        self._paused_until = float("-inf")
        settings = self._settings
        if self._token is None or settings.mender_token or not settings.mender_token_file:
            return
        try:
            token = await self._loop.run_in_executor(None, _read, settings.mender_token_file)
        except (OSError, ValueError):
            return  # what is in force stays; the next time it is needed it is said
        if token != self._token:
            self._token = None

    def close(self) -> None:
        if self._running is not None:
            self._running.cancel()

    def _done(self, task: asyncio.Task[str]) -> None:
        self._running = None
        if not task.cancelled():
            task.exception()  # everybody who waits has it; nobody may be left

    async def _obtain(self, origin: type_of_fields) -> str:
        settings = self._settings
        try:
            token = await self._secret(settings.mender_token, settings.mender_token_file)
            if token is None:
                token = await self._log_in(origin)
            elif not _TOKEN.fullmatch(token):
                raise self._pause("Features.mTLS.MenderToken is no token", _WITHOUT_PASSWORD)
        except Unavailable:
            self._paused_until = self._loop.time() + _BREATH
            self._why = lambda: Unavailable("the server did not answer a login just now")
            raise
        self._token, self._fresh = token, True
        self._until = self._loop.time() + _lifetime(token) - _EARLY
        return token

    async def _log_in(self, origin: type_of_fields) -> str:
        settings = self._settings
        password = await self._secret(settings.mender_password, settings.mender_password_file)
        if not settings.mender_username or password is None:
            raise self._pause(
                "there are no credentials to authorise devices with",
                "set Features.mTLS.MenderUsername and MenderPassword, or MenderToken",
            )
        self.logins += 1
        user = base64.b64encode(f"{settings.mender_username}:{password}".encode())
        fields = [*origin, (b"Authorization", b"Basic " + user)]
        reply = await self._calls.send(b"POST", _LOGIN, fields)
        if reply.status == 200:
            token = reply.body.decode("latin-1").strip()
            if _TOKEN.fullmatch(token) and token.count(".") == 2:
                return token
            raise self._pause(
                "the login was answered with something else than a token", _advice(reply)
            )
        if reply.status in (429, 500, 502, 503, 504):
            raise Unavailable(
                f"login: the server answers {reply.status}", _retry_after(reply.index)
            )
        raise self._pause(
            f"the Mender Server refuses the login of {settings.mender_username}",
            _advice(reply),
            status=reply.status,
            answer=reply.text,
        )

    async def _secret(self, value: str | None, file: str | None) -> str | None:
        """A secret from the settings, or read from its file; raises NotAllowed when that fails."""
        if value is not None or file is None:
            return value
        try:
            return await self._loop.run_in_executor(None, _read, file) or None
        except (OSError, ValueError) as error:
            raise self._pause(
                f"cannot read {file}: {error}", "make it readable for the gateway"
            ) from error

    def _pause(self, text: str, advice: str, **fields: object) -> NotAllowed:
        """Say what is wrong, and let nobody try again for a while."""
        self._log.once_per(
            _PAUSE,
            "management login",
            "error",
            f"devices cannot be authorised: {text}",
            advice=advice,
            **fields,
        )
        self._paused_until = self._loop.time() + _PAUSE
        self._why = lambda: NotAllowed(text)
        return NotAllowed(text)


def _advice(reply: Reply) -> str:
    """What to do about a login without a token.

    Mender answers a user of single sign-on with 200 and `{"id": …, "kind": "sso/saml"}`, and one
    with two-factor authentication with a 401 whose text has `2fa` in it, as its own user interface
    tells them (API of useradm, POST /auth/login).
    """
    if reply.status in range(300, 400) or _names_sign_on(reply):
        return f"this user logs in by single sign-on: {_WITHOUT_PASSWORD}"
    if reply.status == 401 and "2fa" in reply.text.lower():
        return f"this user has two-factor authentication: {_WITHOUT_PASSWORD}"
    if reply.status not in (401, 403):
        return "check UpstreamServer.URL: this is not how a Mender Server answers a login"
    return (
        "check Features.mTLS.MenderUsername and MenderPassword; a user with two-factor "
        f"authentication or single sign-on cannot log in this way: {_WITHOUT_PASSWORD}"
    )


def _names_sign_on(reply: Reply) -> bool:
    try:
        return msgspec.json.decode(reply.body, type=_SignOn).kind.startswith("sso/")
    except (msgspec.DecodeError, RecursionError):
        return False


def _retry_after(index: dict[bytes, bytes]) -> int | None:
    text = index.get(b"retry-after", b"")
    return min(3600, int(text)) if text.isdigit() and len(text) < 9 else None


def _lifetime(token: str) -> float:
    """Seconds from its making to its end, as the token says; infinite when it does not."""
    parts = token.split(".")
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        dates = msgspec.json.decode(payload, type=_Dates)
    except (IndexError, ValueError, binascii.Error, msgspec.DecodeError):
        return float("inf")
    if dates.exp is None or dates.iat is None:
        return float("inf")
    return max(2 * _EARLY, dates.exp - dates.iat)


def _read(name: str) -> str:
    with open(name, encoding="utf-8") as file:
        return file.read(_LARGEST_SECRET).strip("\r\n \t")
