"""Certificates of every sort that the checks must tell apart, made afresh for each test."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Authority:
    certificate: x509.Certificate
    key: PrivateKey


def make_certificate(
    name: str,
    *,
    issuer: Authority | None = None,
    hosts: tuple[str, ...] = ("gateway.example.com",),
    days: tuple[float, float] = (-1, 365),
    key: PrivateKey | None = None,
    is_ca: bool = False,
) -> Authority:
    """A certificate valid from `days[0]` to `days[1]` from now; self-signed without issuer."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
    )
    if hosts:
        names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return Authority(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def pem(*authorities: Authority) -> bytes:
    encoding = serialization.Encoding.PEM
    return b"".join(authority.certificate.public_bytes(encoding) for authority in authorities)


def key_pem(authority: Authority, passphrase: bytes | None = None) -> bytes:
    return authority.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption(),
    )


def write_pair(folder: Path, authority: Authority, *chain: Authority) -> tuple[str, str]:
    """Write certificate (with its chain) and key; their paths."""
    certificate, key = folder / "server.crt", folder / "server.key"
    certificate.write_bytes(pem(authority, *chain))
    key.write_bytes(key_pem(authority))
    key.chmod(0o600)
    return str(certificate), str(key)
