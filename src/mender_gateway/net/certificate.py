"""A client's certificate as the rooms above see it, and the facts that its checks need.

This module and those beside it that read certificates are the only ones of the network room that
import `cryptography`; a gateway without mutual TLS never imports them.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_SMALLEST_RSA = 2048
_SMALLEST_CURVE = 256
_BROKEN_DIGESTS = frozenset({"md5", "sha1"})
_FAULTS = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for certificates that OpenSSL reads and it does not."""


class Unreadable(ValueError):
    """Bytes that are no certificate, or one that the checks cannot judge."""


class ClientCertificate:
    """One certificate. Its texts are made when they are asked for: most connections need none."""

    def __init__(self, der: bytes) -> None:
        """Raises Unreadable."""
        self.der = der
        try:
            if not _serial_is_positive(der):
                raise Unreadable("its serial number is zero or negative")
            self.x509 = x509.load_der_x509_certificate(der)
            self.serial: int = self.x509.serial_number
        except Unreadable:
            raise
        except _FAULTS as error:
            raise Unreadable(str(error) or "malformed") from error

    @cached_property
    def subject(self) -> str:
        return _name(self.x509, "subject")

    @cached_property
    def issuer(self) -> str:
        return _name(self.x509, "issuer")

    @cached_property
    def is_self_issued(self) -> bool:
        try:
            return self.x509.issuer == self.x509.subject
        except _FAULTS:
            return False

    @property
    def serial_text(self) -> str:
        """As `openssl x509 -serial` prints it, and as the blacklist takes it."""
        text = f"{self.serial:X}"
        return text if len(text) % 2 == 0 else f"0{text}"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, hexadecimal."""
        return self.x509.fingerprint(SHA256()).hex()

    @cached_property
    def public_key(self) -> bytes:
        """The SubjectPublicKeyInfo (RFC 5280 4.1.2.7) as DER; raises Unreadable."""
        try:
            key = self.x509.public_key()
        except _FAULTS as error:
            raise Unreadable(f"public key: {error}") from error
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def begins(self) -> float:
        """NotBefore in seconds since 1970."""
        return _seconds(self.x509.not_valid_before_utc)

    @property
    def ends(self) -> float:
        """NotAfter in seconds since 1970."""
        return _seconds(self.x509.not_valid_after_utc)

    def common_names(self) -> list[str]:
        """The values of CN in the subject."""
        try:
            found = self.x509.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        except _FAULTS:
            return []
        return [str(attribute.value) for attribute in found]

    def alternative_names(self) -> list[str]:
        """The DNS names, URIs, mail and IP addresses of subjectAltName."""
        try:
            names = self.x509.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (x509.ExtensionNotFound, *_FAULTS):
            return []
        texts: list[str] = []
        for kind in (x509.DNSName, x509.UniformResourceIdentifier, x509.RFC822Name):
            texts += names.get_values_for_type(kind)
        return [*texts, *map(str, names.get_values_for_type(x509.IPAddress))]

    @cached_property
    def weakness(self) -> str | None:
        """Why the key is too weak, or None; raises Unreadable."""
        try:
            key = self.x509.public_key()
        except _FAULTS as error:
            raise Unreadable(f"public key: {error}") from error
        match key:
            case rsa.RSAPublicKey() if key.key_size < _SMALLEST_RSA:
                return f"RSA key of {key.key_size} bits; at least {_SMALLEST_RSA} are needed"
            case ec.EllipticCurvePublicKey() if key.curve.key_size < _SMALLEST_CURVE:
                return f"curve {key.curve.name}; at least {_SMALLEST_CURVE} bits are needed"
            case dsa.DSAPublicKey():
                return "DSA key; use RSA, P-256 or Ed25519"
        return None

    @cached_property
    def weak_digest(self) -> str | None:
        """The digest of its signature if that can be forged, else None; raises Unreadable."""
        try:
            digest = self.x509.signature_hash_algorithm
        except _FAULTS as error:
            raise Unreadable(f"signature: {error}") from error
        return digest.name if digest is not None and digest.name in _BROKEN_DIGESTS else None

    @cached_property
    def is_ca(self) -> bool:
        """Whether basicConstraints say so (RFC 5280 4.2.1.9)."""
        try:
            basic = self.x509.extensions.get_extension_for_class(x509.BasicConstraints).value
        except (x509.ExtensionNotFound, *_FAULTS):
            return False
        return basic.ca


@dataclass(frozen=True, slots=True)
class Chain:
    """A verified chain: the leaf first, its anchor last."""

    certificates: tuple[ClientCertificate, ...]

    @property
    def leaf(self) -> ClientCertificate:
        return self.certificates[0]


def _name(certificate: x509.Certificate, which: str) -> str:
    try:
        name: x509.Name = getattr(certificate, which)
        return name.rfc4514_string()
    except _FAULTS:
        return "(unreadable)"


def _seconds(moment: datetime) -> float:
    return moment.astimezone(UTC).timestamp()


def _serial_is_positive(der: bytes) -> bool:
    """Read without `cryptography`, which warns of such certificates and will refuse them."""
    at = _content(der, _content(der, 0))
    if der[at : at + 1] == b"\xa0":
        at = _content(der, at) + der[at + 1]
    if der[at : at + 1] != b"\x02":
        raise Unreadable("malformed")
    start = _content(der, at)
    value = der[start : start + der[at + 1]]
    return bool(value) and value[0] < 0x80 and any(value)


def _content(der: bytes, at: int) -> int:
    """Where the content of the DER element at `at` begins."""
    if len(der) < at + 2:
        raise Unreadable("cut short")
    length = der[at + 1]
    return at + 2 + (length & 0x7F if length > 0x80 else 0)
