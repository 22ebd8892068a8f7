"""Device keys: RSA, ECDSA P-256 and Ed25519, and the signature of an authentication request.

The signature covers the exact body bytes: PKCS1v15 over SHA-256 for RSA, DER over SHA-256 for
ECDSA, plain for Ed25519; it travels as base64 in X-MEN-Signature.
"""

import base64
import binascii
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

KeyKind = Literal["rsa", "ec", "ed25519"]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def new_key(kind: KeyKind) -> PrivateKey:
    """A fresh private key; RSA has 3072 bits as the real client's, and takes a while."""
    match kind:
        case "rsa":
            return rsa.generate_private_key(65537, 3072)
        case "ec":
            return ec.generate_private_key(ec.SECP256R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()


def public_pem(key: PrivateKey) -> str:
    form = PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(Encoding.PEM, form).decode()


def signature(key: PrivateKey, body: bytes) -> str:
    """The value of X-MEN-Signature for `body`."""
    match key:
        case rsa.RSAPrivateKey():
            raw = key.sign(body, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePrivateKey():
            raw = key.sign(body, ec.ECDSA(hashes.SHA256()))
        case _:
            raw = key.sign(body)
    return base64.b64encode(raw).decode()


def decoded(value: str) -> bytes:
    """The bytes of an X-MEN-Signature; empty, thus never valid, when it is no base64."""
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        return b""


def verified(pubkey: str, body: bytes, raw: bytes) -> bool:
    """Whether `raw` is the signature over `body` by the holder of the PEM key."""
    key = load_pem_public_key(pubkey.encode())
    try:
        match key:
            case rsa.RSAPublicKey():
                key.verify(raw, body, padding.PKCS1v15(), hashes.SHA256())
            case ec.EllipticCurvePublicKey():
                key.verify(raw, body, ec.ECDSA(hashes.SHA256()))
            case ed25519.Ed25519PublicKey():
                key.verify(raw, body)
            case _:
                return False
    except InvalidSignature:
        return False
    return True
