"""A closer look at certificates, for `check-config` alone: what devices will complain about later.

OpenSSL loads without a word a chain in the wrong order or a certificate that names another host;
the devices are the first to notice. `cryptography` is imported inside the function, so that a
running gateway never carries it for this.
"""

from collections.abc import Iterator
from ipaddress import ip_address
from itertools import pairwise
from typing import TYPE_CHECKING

from mender_gateway.config.settings import Config
from mender_gateway.config.values import printable

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_SMALLEST_RSA = 2048


def look_closely(config: Config) -> list[str]:
    """Warnings about the certificates that the settings name; unreadable files are left out.

    Blocks for reading the files.
    """
    lines: list[str] = []
    if config.https.enabled and config.https.server_certificate is not None:
        chain = _load(config.https.server_certificate)
        if chain:
            lines += _server(config, config.https.server_certificate, chain)
    if config.mtls.enabled and config.mtls.ca_certificate is not None:
        lines += _roots(config.mtls.ca_certificate, _load(config.mtls.ca_certificate))
    return [printable(line, 1000) for line in lines]


def _load(name: str) -> "list[Certificate]":
    from cryptography.x509 import load_pem_x509_certificates

    try:
        with open(name, "rb") as file:
            return load_pem_x509_certificates(file.read(1024 * 1024))
    except (OSError, ValueError):
        return []  # check_certificates has said it


def _server(config: Config, name: str, chain: "list[Certificate]") -> Iterator[str]:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    path, leaf = "HTTPS.ServerCertificate", chain[0]
    for number, (issued, issuer) in enumerate(pairwise(chain), 1):
        try:
            issued.verify_directly_issued_by(issuer)
        except Exception:  # ValueError, TypeError or InvalidSignature: all say no
            yield (
                f"{path}: certificate {number} in {name} is not issued by certificate "
                f"{number + 1}; order them: server first, each followed by its issuer"
            )
    try:
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if ExtendedKeyUsageOID.SERVER_AUTH not in usages:
            yield f"{path}: {name} is not made for servers; make one with serverAuth"
    except (x509.ExtensionNotFound, ValueError):
        pass
    hosts = _hosts(leaf)
    if not hosts:
        yield (
            f"{path}: {name} has no subjectAltName: most devices will refuse it; make one that "
            "names the gateway's host there"
        )
    url = config.artifacts_proxy.gateway_url
    if hosts and url is not None and not covers(hosts, url.host):
        yield (
            f"{path}: {name} does not cover the host of Features.ArtifactsProxy.GatewayURL, "
            f"{url.host}, but only {', '.join(hosts)[:200]}; make one that does, or change the URL"
        )


def _hosts(leaf: "Certificate") -> list[str]:
    from cryptography import x509

    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*(name.lower() for name in names.get_values_for_type(x509.DNSName)), *addresses]


def covers(names: list[str], host: str) -> bool:
    """Whether one of the subjectAltNames stands for `host` (RFC 6125 6.4)."""
    try:
        return str(ip_address(host)) in names
    except ValueError:
        parent = host.partition(".")[2]
        return host in names or (parent != "" and f"*.{parent}" in names)


def _roots(name: str, roots: "list[Certificate]") -> Iterator[str]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    path = "Features.mTLS.CACertificate"
    for number, root in enumerate(roots, 1):
        try:
            basic = root.extensions.get_extension_for_class(x509.BasicConstraints).value
            is_ca = basic.ca
        except (x509.ExtensionNotFound, ValueError):
            is_ca = False
        if not is_ca:
            yield f"{path}: certificate {number} in {name} is no CA certificate; remove it"
        key = root.public_key()
        if isinstance(key, RSAPublicKey) and key.key_size < _SMALLEST_RSA:
            yield (
                f"{path}: certificate {number} in {name} has a key of only {key.key_size} bits; "
                f"replace it by one of {_SMALLEST_RSA} or more"
            )
