"""A signature over a Mender artifact's manifest, checked against the keys of the operator.

`manifest.sig` holds, in base64, what mender-artifact and its signing services make: RSA PKCS #1
v1.5 with SHA-256, ECDSA on P-256 with SHA-256 as r and s of 32 bytes each (services also send DER),
or Ed25519, over the manifest or its SHA-256. `cryptography` is imported when there is a signature
to be checked.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence

from mender_gateway.config.verify_keys import PublicKey, read_key
from mender_gateway.errors import ConfigError

_P256 = 32


def load_keys(paths: Sequence[str]) -> tuple[PublicKey, ...]:
    """Reads PEM public keys; raises ConfigError that names the file and what is wrong with it."""
    try:
        return tuple(read_key(path) for path in paths)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def signer_of(keys: Iterable[PublicKey], manifest: bytes, encoded: bytes) -> str | None:
    """The identity of the key that verifies a manifest.sig; None when no key does."""
    try:
        signature = base64.b64decode(b"".join(encoded.split()), validate=True)
    except binascii.Error:
        return None
    return next((key.identity for key in keys if _verifies(key, manifest, signature)), None)


def _verifies(key: PublicKey, message: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        match key.public:
            case RSAPublicKey():
                key.public.verify(signature, message, PKCS1v15(), SHA256())
            case EllipticCurvePublicKey():
                key.public.verify(_der(signature), message, ECDSA(SHA256()))
            case _ if len(signature) == 64:
                try:
                    key.public.verify(signature, message)
                except InvalidSignature:
                    key.public.verify(signature, hashlib.sha256(message).digest())
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
