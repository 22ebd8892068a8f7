"""The keys that artifacts must be signed with, and the check of a signature over the manifest.

`manifest.sig` holds, in base64, what mender-artifact and its signing services make: RSA PKCS #1
v1.5 with SHA-256, ECDSA on P-256 with SHA-256 as r and s of 32 bytes each (services also send DER),
or Ed25519, over the manifest or its SHA-256. `cryptography` is imported when keys are loaded, so
that a gateway without such keys does without it.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mender_gateway.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

_SETTING = "Features.ArtifactsProxy.ArtifactVerifyKeys"
_P256 = 32
_LARGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A public key; `identity` is the SHA-256 of its SubjectPublicKeyInfo."""

    identity: str
    public: "RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey"

    def verifies(self, message: bytes, signature: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
        from cryptography.hazmat.primitives.hashes import SHA256

        try:
            match self.public:
                case RSAPublicKey():
                    self.public.verify(signature, message, PKCS1v15(), SHA256())
                case EllipticCurvePublicKey():
                    self.public.verify(_der(signature), message, ECDSA(SHA256()))
                case _ if len(signature) == 64:
                    try:
                        self.public.verify(signature, message)
                    except InvalidSignature:
                        self.public.verify(signature, hashlib.sha256(message).digest())
                case _:
                    return False
        except (InvalidSignature, ValueError):
            return False
        return True


def _der(signature: bytes) -> bytes:
    """An ECDSA signature as cryptography wants it; raises ValueError."""
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    if len(signature) != 2 * _P256:
        return signature
    numbers = (signature[:_P256], signature[_P256:])
    return encode_dss_signature(*(int.from_bytes(number, "big") for number in numbers))


def signer_of(keys: Iterable[VerifyKey], manifest: bytes, encoded: bytes) -> str | None:
    """The identity of the key that verifies a manifest.sig; None when no key does."""
    try:
        signature = base64.b64decode(b"".join(encoded.split()), validate=True)
    except binascii.Error:
        return None
    return next((key.identity for key in keys if key.verifies(manifest, signature)), None)


def load_keys(paths: Sequence[str]) -> tuple[VerifyKey, ...]:
    """Reads PEM public keys; raises ConfigError that names the file and what is wrong with it."""
    return tuple(_load(path) for path in paths)


def _load(path: str) -> VerifyKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_public_key,
    )

    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError(f"{_SETTING}: {path}: {reason}; name a readable PEM file") from error
    if b"PRIVATE KEY" in content:
        raise ConfigError(f"{_SETTING}: {path} holds a private key; name the public key's file")
    try:
        public = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{_SETTING}: {path} is no PEM public key; make one with: openssl pkey -pubout"
        ) from error
    usable = isinstance(public, RSAPublicKey | Ed25519PublicKey) or (
        isinstance(public, EllipticCurvePublicKey) and isinstance(public.curve, SECP256R1)
    )
    if not usable:
        raise ConfigError(f"{_SETTING}: {path} is no RSA, ECDSA P-256 or Ed25519 key; use such one")
    encoded = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return VerifyKey(hashlib.sha256(encoded).hexdigest(), public)  # type: ignore[arg-type]
