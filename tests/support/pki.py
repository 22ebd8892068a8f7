"""A private CA, and a server certificate of it for this machine's loopback names and addresses."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from mender_gateway.demo.certificates import Authority, CertificateFiles, serving, trusting


@dataclass(frozen=True, slots=True)
class ServerPki:
    """PEM files."""

    ca: Path
    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        return serving(CertificateFiles(self.certificate, self.key))

    def client_context(self) -> ssl.SSLContext:
        """Trusts this CA alone."""
        return trusting(self.ca)


def make_server_pki(
    folder: Path, hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
) -> ServerPki:
    """Writes ca.crt, server.crt and server.key (P-256) for `hosts`, names or addresses."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder, "Test CA")
    files = authority.issue("server", hosts)
    return ServerPki(authority.certificate, files.certificate, files.key)
