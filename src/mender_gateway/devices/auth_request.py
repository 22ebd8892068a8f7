"""A device's auth request, read so strictly that the server cannot read something else from it.

The body is a JSON object with ``id_data`` (JSON text of an object), ``pubkey`` (PEM) and
``tenant_token``; ``X-MEN-Signature`` is the signature over its exact bytes by that key. JSON
readers differ on repeated members and, the server's, on their case; PEM readers on what surrounds
a block. A request that leaves room for two readings is refused.
"""

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

_MEMBERS = frozenset({"id_data", "pubkey", "tenant_token"})
_LARGEST_KEY = 8 * 1024
_LARGEST_EXPONENT = 2**31 - 1
"""Of RSA keys: Go reads no larger one, and verifying takes as long as it is."""
LARGEST = 32 * 1024
"""Bytes of a request. Clients send two thousand; reading what is made to be slow takes a few
milliseconds of everybody's time.
"""
_SMALLEST_RSA = 2048
_SMALLEST_CURVE = 256
_HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair: Go reads every one as the same replacement character."""
_PEM = re.compile(
    r"\s*-----BEGIN PUBLIC KEY-----[ \t]*\r?\n[A-Za-z0-9+/=\r\n]+-----END PUBLIC KEY-----\s*"
)

type_of_key = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class Unreadable(ValueError):
    """Nothing that could be verified, and so nothing for the server."""


class Ambiguous(ValueError):
    """Different readers would see different requests in it."""


@dataclass(frozen=True, slots=True)
class AuthRequest:
    identity: str
    """The JSON text of the identity, as the device wrote it."""
    canonical: str
    """The same for equal identities, whatever their order and spacing."""
    attributes: dict[str, Any]
    pubkey: str
    """PEM, as the device wrote it."""
    key: type_of_key = field(repr=False)
    public_key: bytes = field(repr=False)
    """The key's SubjectPublicKeyInfo, DER."""

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.public_key)

    @property
    def digest(self) -> bytes:
        """SHA-256 of identity and key, to remember the pair by: identities may be long."""
        return hashlib.sha256(self.canonical.encode() + b"\0" + self.public_key).digest()

    @property
    def weakness(self) -> str | None:
        """Why nobody should be known by this key: others can find its private part."""
        match self.key:
            case rsa.RSAPublicKey(key_size=size) if size < _SMALLEST_RSA:
                return f"RSA key of {size} bits; at least {_SMALLEST_RSA} are needed"
            case ec.EllipticCurvePublicKey(curve=curve) if curve.key_size < _SMALLEST_CURVE:
                return f"curve {curve.name}; at least {_SMALLEST_CURVE} bits are needed"
        return None


def fingerprint(public_key: bytes) -> str:
    """SHA-256 of a SubjectPublicKeyInfo, hexadecimal."""
    return hashlib.sha256(public_key).hexdigest()


def parse(body: bytes) -> AuthRequest:
    """The request in `body`; raises Ambiguous or Unreadable."""
    members = _object(body)
    seen: set[str] = set()
    for name, value in members:
        folded = name.casefold()
        if folded in seen:
            raise Ambiguous(f"member {name[:40]!r} is there twice")
        if folded in _MEMBERS and name != folded:
            raise Ambiguous(f"member {name[:40]!r} is spelled otherwise")
        seen.add(folded)
        _plain(name)
        _plain(value)
    found = dict(members)
    identity, pubkey = found.get("id_data"), found.get("pubkey")
    if not isinstance(identity, str) or not isinstance(pubkey, str):
        raise Unreadable("id_data or pubkey is missing")
    attributes = _plain(_object(identity.encode()))
    if not attributes:
        raise Unreadable("the identity is empty")
    key = load_key(pubkey)
    canonical = json.dumps(attributes, sort_keys=True, separators=(",", ":"))
    return AuthRequest(identity, canonical, attributes, pubkey, key, der_of(key))


def load_key(pubkey: str) -> type_of_key:
    """The public key in PEM text that is one such block and nothing else; raises Unreadable."""
    if len(pubkey) > _LARGEST_KEY or not _PEM.fullmatch(pubkey):
        raise Unreadable("pubkey is no plain PEM public key")
    try:
        key = load_pem_public_key(pubkey.strip().encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Unreadable("pubkey cannot be read") from error
    if not isinstance(key, type_of_key):
        raise Unreadable("pubkey is of an unknown kind")
    if isinstance(key, rsa.RSAPublicKey) and key.public_numbers().e > _LARGEST_EXPONENT:
        raise Unreadable("pubkey has an exponent that the server does not read")
    return key


def der_of(key: type_of_key) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def is_signed(request: AuthRequest, body: bytes, signature: bytes) -> bool:
    """Whether `signature`, base64 from X-MEN-Signature, is that of the request's key over `body`:
    RSA PKCS1v15 or ECDSA (DER) over SHA-256, or Ed25519.
    """
    try:
        raw = base64.b64decode(signature, validate=True)
        match request.key:
            case rsa.RSAPublicKey() as key:
                key.verify(raw, body, padding.PKCS1v15(), hashes.SHA256())
            case ec.EllipticCurvePublicKey() as key:
                key.verify(raw, body, ec.ECDSA(hashes.SHA256()))
            case ed25519.Ed25519PublicKey() as key:
                key.verify(raw, body)
    except (InvalidSignature, UnsupportedAlgorithm, binascii.Error, ValueError):
        return False
    return True


class _Pairs(tuple[tuple[str, Any], ...]):
    """The members of an object, repeated ones too."""

    __slots__ = ()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_Pairs, parse_constant=_no_constant)


def _object(text: bytes) -> _Pairs:
    try:
        value = _decoder.decode(text.decode())
    except (ValueError, RecursionError) as error:
        raise Unreadable("it is no JSON") from error
    if not isinstance(value, _Pairs):
        raise Unreadable("it is no JSON object")
    return value


def _plain(value: Any) -> Any:
    """The value with objects as dictionaries; raises Ambiguous for repeated members, and for text
    that is no Unicode.
    """
    if isinstance(value, _Pairs):
        found: dict[str, Any] = {}
        for name, member in value:
            if name in found:
                raise Ambiguous(f"member {name[:40]!r} is there twice")
            found[_plain(name)] = _plain(member)
        return found
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, str) and _HALF.search(value):
        raise Ambiguous(f"{value[:40]!r} holds half a character")
    return value
