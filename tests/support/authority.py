"""Certificate authorities, device certificates and revocation lists of every sort, good and bad."""

from __future__ import annotations

import shlex
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def new_key(kind: str) -> PrivateKey:
    """`rsa2048` and other sizes, `p256`, `p384`, `ed25519`."""
    match kind:
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))


@cache
def shared_key(kind: str) -> PrivateKey:
    """Making RSA keys is slow: one of each kind for the whole run."""
    return new_key(kind)


def common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(frozen=True)
class Issued:
    """A certificate with its key, and the certificates that a device sends with it."""

    certificate: x509.Certificate
    key: PrivateKey
    chain: tuple[Issued, ...] = ()

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def public_pem(self) -> str:
        form = PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(Encoding.PEM, form).decode()

    @property
    def serial(self) -> int:
        return self.certificate.serial_number

    def with_chain(self, *chain: Issued) -> Issued:
        return Issued(self.certificate, self.key, chain)

    def write(self, folder: Path, name: str) -> tuple[str, str]:
        """Files of the certificate with its chain, and of the key."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(b"".join((self.pem, *(each.pem for each in self.chain))))
        key.write_bytes(self.key_pem)
        key.chmod(0o600)
        return str(certificate), str(key)

    def context(
        self, folder: Path, name: str, version: ssl.TLSVersion | None = None
    ) -> ssl.SSLContext:
        """A device's context that shows this certificate and trusts any server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if version is not None:
            context.minimum_version = context.maximum_version = version
        context.load_cert_chain(*self.write(folder, name))
        return context


def issue(
    name: str,
    issuer: Issued | None = None,
    *,
    kind: str = "p256",
    key: PrivateKey | None = None,
    days: tuple[float, float] = (-1, 30),
    ca: bool | None = None,
    path_length: int | None = None,
    serial: int | None = None,
    digest: Any = None,
    usages: Sequence[x509.ObjectIdentifier] | None = None,
    names: Sequence[x509.GeneralName] = (),
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    issuer_name: str | None = None,
) -> Issued:
    """A certificate, valid from `days[0]` to `days[1]` from now; self-signed without issuer.

    `ca` None: no basicConstraints at all.
    """
    key = key or shared_key(kind)
    subject = common_name(name)
    signer = issuer.key if issuer else key
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(
            common_name(issuer_name)
            if issuer_name
            else issuer.certificate.subject
            if issuer
            else subject
        )
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    if usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    if digest is None and not isinstance(signer, ed25519.Ed25519PrivateKey):
        digest = hashes.SHA256()
    return Issued(builder.sign(signer, digest), key)


def authority(name: str, issuer: Issued | None = None, **options: Any) -> Issued:
    """A CA, with a key of its own."""
    options.setdefault("key", new_key(options.pop("kind", "p256")))
    return issue(name, issuer, ca=True, **options)


def openssl(arguments: str, folder: str | Path) -> str:
    """What the openssl command prints."""
    command = ["openssl", *shlex.split(arguments)]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, (arguments, ran.stderr)
    return ran.stdout


def revocation_list(
    issuer: Issued,
    serials: Sequence[int],
    *,
    days: tuple[float, float] = (-1, 7),
    key: PrivateKey | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> x509.CertificateRevocationList:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now + timedelta(days=days[0]))
        .next_update(now + timedelta(days=days[1]))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key or issuer.key, hashes.SHA256())
