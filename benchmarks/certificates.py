"""Keys and certificates of a run, P-256 throughout: one server's, and a device's with its root."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from mender_gateway.demo.certificates import Authority, CertificateFiles

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files."""

    server: CertificateFiles
    device: CertificateFiles
    device_ca: Path


def make(folder: Path) -> Certificates:
    """Everything a run needs, for localhost and 127.0.0.1."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Authority(folder, "Benchmark CA").issue("server", ["localhost", "127.0.0.1"])
    root, leaf = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = _name("Benchmark device CA")
    ca = (
        _begun(issuer, issuer, root)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(root, hashes.SHA256())
    )
    certificate = (
        _begun(_name("device-1"), issuer, leaf)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(root, hashes.SHA256())
    )
    device = CertificateFiles(folder / "device.crt", folder / "device.key")
    device.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    device.key.touch(0o600)
    device.key.write_bytes(leaf.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    device_ca = folder / "device-ca.crt"
    device_ca.write_bytes(ca.public_bytes(Encoding.PEM))
    return Certificates(server, device, device_ca)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 30 * _DAY)
    )
