"""Management users: the login that yields a token for the management APIs."""

import base64
import binascii
import time
import uuid
from collections.abc import Callable

from mender_gateway.demo.apis import tokens
from mender_gateway.demo.apis.front import ApiError, Call, Reply, Routes


class UserAdministration:
    """One user with a password; `logins` counts the attempts."""

    def __init__(
        self, name: str, password: str, routes: Routes, clock: Callable[[], float] = time.time
    ) -> None:
        self.name, self.password = name, password
        self.logins = 0
        self._id = str(uuid.uuid4())
        self._clock = clock
        routes.add("POST", "/api/management/v1/useradm/auth/login", self.login)

    def token(self) -> str:
        return tokens.user_token(self._id, self._clock())

    async def login(self, call: Call) -> Reply:
        self.logins += 1
        scheme, _, given = (call.request.header("authorization") or "").partition(" ")
        try:
            user = base64.b64decode(given, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            user = ""
        if scheme.lower() != "basic" or user != f"{self.name}:{self.password}":
            raise ApiError(401, "unauthorized")
        return Reply(200, self.token().encode(), (("Content-Type", "application/jwt"),))
