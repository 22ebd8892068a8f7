"""RS256 JSON Web Tokens with the claims the server's services put into them (RFC 7519, 7515)."""

import base64
import binascii
import json
import uuid
from functools import cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

TOKEN_LIFE = 7 * 24 * 3600
"""Seconds; both kinds of token."""

_ZERO_TIME = -62135596800
"""The year 1: what the server writes for a time it does not set."""


@cache
def _signing_key() -> rsa.RSAPrivateKey:
    """One key per process: making it takes a fraction of a second, and tokens are about 1 KB."""
    return rsa.generate_private_key(65537, 3072)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def signed(header: dict[str, object], claims: dict[str, object]) -> str:
    """The compact form of a token."""
    parts = [_encode(json.dumps(p, separators=(",", ":")).encode()) for p in (header, claims)]
    message = ".".join(parts)
    signature = _signing_key().sign(message.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{message}.{_encode(signature)}"


def device_token(auth_set: str, device: str, now: float) -> str:
    """What an accepted device is given."""
    issued = int(now)
    addons = [{"name": n, "enabled": True} for n in ("configure", "troubleshoot", "monitor")]
    return signed(
        {"alg": "RS256", "typ": "JWT"},
        {
            "jti": auth_set,
            "sub": device,
            "iss": "Mender",
            "exp": issued + TOKEN_LIFE,
            "iat": issued,
            "nbf": _ZERO_TIME,
            "mender.device": True,
            "mender.plan": "enterprise",
            "mender.trial": False,
            "mender.addons": addons,
        },
    )


def user_token(user: str, now: float) -> str:
    """What a management user is given at login."""
    issued = int(now)
    return signed(
        {"alg": "RS256", "kid": 0, "typ": "JWT"},
        {
            "jti": str(uuid.uuid4()),
            "sub": user,
            "exp": issued + TOKEN_LIFE,
            "iat": issued,
            "mender.user": True,
            "iss": "mender.useradm",
            "scp": "mender.*",
            "nbf": issued,
        },
    )


def claims_of(token: str) -> dict[str, object] | None:
    """The claims as written, unverified; None when this is no token at all."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(_decode(parts[1]))
    except (ValueError, binascii.Error):
        return None
    return claims if isinstance(claims, dict) else None


def is_valid(token: str, now: float) -> bool:
    """Whether this server signed the token and it has not expired."""
    claims = claims_of(token)
    message, _, signature = token.rpartition(".")
    try:
        _signing_key().public_key().verify(
            _decode(signature), message.encode(), padding.PKCS1v15(), hashes.SHA256()
        )
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    expires = claims.get("exp") if claims else None
    return isinstance(expires, int) and now < expires
