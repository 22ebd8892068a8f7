"""A folder with a small certificate authority, for development and for trying things out.

The folder is all there is: PEM files that openssl reads too. A root for devices, one for the
server, intermediates, certificates, and one revocation list per device CA, which is at the same
time the record of what was revoked. Private keys lie beside them unprotected, which is why this is
no authority for production.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mender_gateway.errors import ConfigError

type_of_private_key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

KINDS = ("p256", "p384", "rsa", "ed25519")
SERVER_CA, DEVICE_CA = "server-ca", "device-ca"
_LIST_DAYS = 30


@dataclass(frozen=True, slots=True)
class Authority:
    certificate: x509.Certificate
    key: type_of_private_key
    chain: bytes
    """PEM of the certificates between it and its root, itself included; empty for a root."""


class PkiFolder:
    """Makes files; raises ConfigError when one is in the way or missing, OSError otherwise."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.server_ca = path / f"{SERVER_CA}.crt"
        self.roots = path / "device-roots.pem"
        self.authorities = path / "authorities"
        self.devices = path / "devices"
        self.lists = path / "crl"
        self.blacklist = path / "blacklist"
        self.server = path / "server.crt"

    # --- making --------------------------------------------------------------------------------

    def make_root(self, name: str, days: int) -> Path:
        """A root; that of the server lies in the folder, those of devices under `authorities`."""
        self.path.mkdir(parents=True, exist_ok=True)
        where = self.path if name == SERVER_CA else self.authorities
        key = _new_key("p256")
        certificate = _build(name, key, key, None, days, _ca(None))
        path = self._write(where / f"{name}.crt", [certificate], key)
        if where == self.authorities:
            self._write_list(Authority(certificate, key, b""), path.stem, ())
            old = self.roots.read_bytes() if self.roots.exists() else b""
            _replace(self.roots, old + _pem(certificate))
            self.blacklist.touch()
        return path

    def make_intermediate(self, name: str, by: str, days: int) -> Path:
        issuer = self.authority(by)
        key = _new_key("p256")
        certificate = _build(name, key, issuer.key, issuer.certificate, days, _ca(0))
        path = self._write(self.authorities / f"{name}.crt", [certificate], key, issuer.chain)
        self._write_list(Authority(certificate, key, b""), name, ())
        return path

    def make_server(self, hosts: Sequence[str], days: int) -> Path:
        issuer = self._load(self.server_ca)
        key = _new_key("p256")
        extensions = _leaf([ExtendedKeyUsageOID.SERVER_AUTH])
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        extensions.append((names, False))
        certificate = _build(hosts[0], key, issuer.key, issuer.certificate, days, extensions)
        return self._write(self.server, [certificate], key, replace=True)

    def make_device(self, name: str, kind: str, by: str, days: int) -> Path:
        issuer = self.authority(by)
        key = _new_key(kind)
        extensions = _leaf([ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = _build(name, key, issuer.key, issuer.certificate, days, extensions)
        return self._write(self.devices / f"{name}.crt", [certificate], key, issuer.chain)

    # --- revoking ------------------------------------------------------------------------------

    def revoke(self, certificate: x509.Certificate) -> Path:
        """Put it on the list of its issuer and on the blacklist; the list's path."""
        for path in sorted(self.authorities.glob("*.crt")):
            issuer = self._load(path)
            try:
                certificate.verify_directly_issued_by(issuer.certificate)
            except Exception:  # ValueError, TypeError or InvalidSignature: all say no
                continue
            serials = {entry.serial_number for entry in self._list(path.stem)}
            self._write_list(issuer, path.stem, {*serials, certificate.serial_number})
            line = f"{certificate.serial_number:X}  # {certificate.subject.rfc4514_string()}\n"
            old = self.blacklist.read_text() if self.blacklist.exists() else ""
            if line not in old:
                _replace(self.blacklist, (old + line).encode())
            return self._list_path(path.stem)
        raise ConfigError(f"no authority in {self.authorities} has issued this certificate")

    def refresh(self) -> list[Path]:
        """Sign every list anew, with a later nextUpdate."""
        for path in sorted(self.authorities.glob("*.crt")):
            serials = [entry.serial_number for entry in self._list(path.stem)]
            self._write_list(self._load(path), path.stem, serials)
        return sorted(self.lists.glob("*.crl"))

    def certificate_of(self, what: str) -> x509.Certificate:
        """The first certificate of a file, of a device or of an intermediate."""
        for path in (
            self.devices / f"{what}.crt",
            self.authorities / f"{what}.crt",
            Path(what),
        ):
            if path.is_file():
                try:
                    return x509.load_pem_x509_certificates(path.read_bytes())[0]
                except ValueError as error:
                    raise ConfigError(f"{path} holds no certificate: {error}") from error
        raise ConfigError(f"there is no certificate {what}; give a device's name or a file")

    # --- files ---------------------------------------------------------------------------------

    def authority(self, name: str) -> Authority:
        return self._load(self.authorities / f"{name}.crt")

    def _load(self, path: Path) -> Authority:
        if not path.is_file():
            raise ConfigError(f"there is no authority {path.stem}; make one first, with init")
        text = path.read_bytes()
        certificate = x509.load_pem_x509_certificates(text)[0]
        key = load_pem_private_key(path.with_suffix(".key").read_bytes(), None)
        if not isinstance(key, type_of_private_key):
            raise ConfigError(f"{path.with_suffix('.key')} is of an unknown kind")
        root = certificate.issuer == certificate.subject
        return Authority(certificate, key, b"" if root else text)

    def _write(
        self,
        path: Path,
        certificates: Sequence[x509.Certificate],
        key: type_of_private_key,
        chain: bytes = b"",
        *,
        replace: bool = False,
    ) -> Path:
        if path.exists() and not replace:
            raise ConfigError(f"{path} exists already; choose another name, or remove it")
        path.parent.mkdir(parents=True, exist_ok=True)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _replace(path.with_suffix(".key"), secret, 0o600)
        _replace(path, b"".join(map(_pem, certificates)) + chain)
        return path

    def _list_path(self, name: str) -> Path:
        return self.lists / f"{name}.crl"

    def _list(self, name: str) -> Iterable[x509.RevokedCertificate]:
        path = self._list_path(name)
        return x509.load_pem_x509_crl(path.read_bytes()) if path.is_file() else ()

    def _write_list(self, issuer: Authority, name: str, serials: Iterable[int]) -> None:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.certificate.subject)
            .last_update(now)
            .next_update(now + timedelta(days=_LIST_DAYS))
            .add_extension(_key_id_of(issuer.certificate), critical=False)
            .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        )
        for serial in sorted(serials):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        signed = builder.sign(issuer.key, _digest(issuer.key))
        self.lists.mkdir(parents=True, exist_ok=True)
        # The CA goes with its list, so that the gateway can verify the list when it is loaded.
        data = signed.public_bytes(Encoding.PEM) + _pem(issuer.certificate)
        _replace(self._list_path(name), data)


def _replace(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write the file whole or not at all, never readable by more than `mode` allows."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    os.replace(beside, path)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _new_key(kind: str) -> type_of_private_key:
    match kind:
        case "rsa":
            return rsa.generate_private_key(65537, 3072)
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case _:
            return ec.generate_private_key(ec.SECP256R1())


def _digest(key: type_of_private_key) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


type_of_extensions = list[tuple[x509.ExtensionType, bool]]
"""Each with whether it is critical."""


def _build(
    name: str,
    key: type_of_private_key,
    signing_key: type_of_private_key,
    issuer: x509.Certificate | None,
    days: int,
    extensions: type_of_extensions,
) -> x509.Certificate:
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks of devices differ
        .not_valid_after(now + timedelta(days=days))
        .add_extension(own, critical=False)
    )
    if issuer is not None:
        builder = builder.add_extension(_key_id_of(issuer), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signing_key, _digest(signing_key))


def _key_id_of(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _ca(path_length: int | None) -> type_of_extensions:
    return [(x509.BasicConstraints(True, path_length), True), (_usage(signs=True), True)]


def _leaf(usages: list[x509.ObjectIdentifier]) -> type_of_extensions:
    return [
        (x509.BasicConstraints(False, None), True),
        (_usage(signs=False), True),
        (x509.ExtendedKeyUsage(usages), False),
    ]


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
