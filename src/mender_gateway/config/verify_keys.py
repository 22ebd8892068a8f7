"""The public keys that artifacts must be signed with, read from the files that a setting names.

`cryptography` is imported when there is a key to be read, so that a gateway without such keys does
without it.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

SETTING = "Features.ArtifactsProxy.ArtifactVerifyKeys"
_LARGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class PublicKey:
    """RSA, ECDSA on P-256, or Ed25519."""

    identity: str
    """SHA-256 of its SubjectPublicKeyInfo, hexadecimal."""
    public: "RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey"


def read_key(path: str) -> PublicKey:
    """Reads a PEM file; raises ValueError with one line that names key path and file."""
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
        raise ValueError(f"{SETTING}: {path}: {reason}; name a readable PEM file") from error
    if b"PRIVATE KEY" in content:
        raise ValueError(f"{SETTING}: {path} holds a private key; name the public key's file")
    try:
        public = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(
            f"{SETTING}: {path} is no PEM public key; make one with: openssl pkey -pubout"
        ) from error
    match public:
        case RSAPublicKey() | Ed25519PublicKey():
            pass
        case EllipticCurvePublicKey() if isinstance(public.curve, SECP256R1):
            pass
        case _:
            raise ValueError(
                f"{SETTING}: {path} is no RSA, ECDSA P-256 or Ed25519 key; use one of these"
            )
    encoded = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(hashlib.sha256(encoded).hexdigest(), public)
