"""`mender-gateway pki` makes what openssl, the gateway and devices take."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.mtls.gateways import REQUEST
from tests.support.authority import openssl
from tests.support.gateway import GatewayProcess, running_gateway
from tests.support.scripted import connect
from tests.support.stage import eventually, running_stage


def pki(folder: Path, *arguments: str, status: int = 0) -> str:
    """What the command prints, on both streams."""
    ran = subprocess.run(
        [sys.executable, "-m", "mender_gateway", "pki", *arguments, "--folder", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == status, ran.stderr
    return ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki") / "made"
    pki(folder, "init")
    pki(folder, "server", "127.0.0.1", "localhost", "gateway.example.com")
    pki(folder, "intermediate", "factory")
    pki(folder, "device", "plain")
    pki(folder, "device", "below", "--by", "factory", "--key", "rsa")
    pki(folder, "device", "ed", "--key", "ed25519")
    return folder


def test_openssl_accepts_what_was_made(made: Path) -> None:
    roots = "-CAfile device-roots.pem"
    strict = "-x509_strict -check_ss_sig"
    openssl(f"verify {strict} -CAfile server-ca.crt -purpose sslserver server.crt", made)
    openssl(f"verify {strict} -CAfile server-ca.crt -verify_ip 127.0.0.1 server.crt", made)
    openssl(f"verify {strict} {roots} -purpose sslclient devices/plain.crt", made)
    openssl(f"verify {strict} {roots} -purpose sslclient devices/ed.crt", made)
    through = "-untrusted authorities/factory.crt"
    openssl(f"verify {strict} {roots} {through} -purpose sslclient devices/below.crt", made)
    for name in ("device-ca", "factory"):
        openssl(f"crl -in crl/{name}.crl -CAfile authorities/{name}.crt -noout", made)


def test_private_keys_are_for_their_owner_alone(made: Path) -> None:
    keys = list(made.rglob("*.key"))
    assert len(keys) == 7
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}


def test_nothing_is_overwritten_and_mistakes_are_said(made: Path) -> None:
    before = (made / "server-ca.key").read_bytes()
    assert "exists already" in pki(made, "init", status=1)
    assert "exists already" in pki(made, "device", "plain", status=1)
    assert "there is no authority nobody" in pki(made, "device", "x", "--by", "nobody", status=1)
    assert "there is no certificate nobody" in pki(made, "revoke", "nobody", status=1)
    assert "is no name" in pki(made, "device", "../x", status=2)
    assert (made / "server-ca.key").read_bytes() == before


def test_what_is_printed_says_that_it_is_for_development(tmp_path: Path) -> None:
    text = pki(tmp_path / "p", "init")
    assert "DEVELOPMENT" in text
    assert "Features.mTLS.CACertificate" in text
    assert '"CRLPath"' in pki(tmp_path / "p", "server", "gateway.example.com")
    assert '"HttpsClient"' in pki(tmp_path / "p", "device", "d")


def test_lists_can_be_renewed(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    pki(folder, "init")
    pki(folder, "device", "lost")
    pki(folder, "revoke", "lost")
    first = x509.load_pem_x509_crl((folder / "crl" / "device-ca.crl").read_bytes())
    began = time.monotonic()
    while True:
        pki(folder, "revoke")
        renewed = x509.load_pem_x509_crl((folder / "crl" / "device-ca.crl").read_bytes())
        if renewed.last_update_utc > first.last_update_utc:
            break
        assert time.monotonic() - began < 10
    assert [e.serial_number for e in renewed] == [e.serial_number for e in first]
    assert len(list(renewed)) == 1


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[tuple[GatewayProcess, Path]]:
    folder = tmp_path / "p"
    pki(folder, "init")
    pki(folder, "server", "127.0.0.1")
    pki(folder, "intermediate", "factory")
    with running_stage() as stage:
        config = {
            "HTTPS": {
                "Enabled": True,
                "Listen": "127.0.0.1:0",
                "ServerCertificate": str(folder / "server.crt"),
                "ServerKey": str(folder / "server.key"),
            },
            "UpstreamServer": {"URL": stage.url},
            "Features": {
                "mTLS": {
                    "Enabled": True,
                    "CACertificate": str(folder / "device-roots.pem"),
                    "BlacklistPath": str(folder / "blacklist"),
                    "CRLPath": str(folder / "crl"),
                    "CRLRequired": True,
                }
            },
        }
        with running_gateway(tmp_path, config) as found:
            yield found, folder


def enters(gateway: GatewayProcess, folder: Path, name: str) -> bool:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(folder / "server-ca.crt")
    certificate = folder / "devices" / f"{name}.crt"
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    try:
        peer = connect(gateway.ports["https"], context)
        with peer.sock:
            peer.send(REQUEST)
            return peer.answer()[0] == 200
    except (OSError, EOFError):
        return False


def test_a_life_of_rotations_and_revocations_without_a_restart(
    gateway: tuple[GatewayProcess, Path],
) -> None:
    process, folder = gateway
    pki(folder, "device", "one")
    pki(folder, "device", "two", "--by", "factory", "--key", "rsa")
    assert enters(process, folder, "one")
    assert enters(process, folder, "two")
    # A new intermediate beside the old one: the gateway needs its list, since lists are required.
    pki(folder, "intermediate", "factory-2")
    pki(folder, "device", "three", "--by", "factory-2", "--key", "ed25519")
    eventually(lambda: enters(process, folder, "three"))
    assert enters(process, folder, "two")
    # A new root beside the old one.
    pki(folder, "init", "--add-root", "device-ca-2")
    pki(folder, "device", "four", "--by", "device-ca-2")
    eventually(lambda: enters(process, folder, "four"))
    # The old intermediate is revoked: only its devices go.
    pki(folder, "revoke", "factory")
    eventually(lambda: not enters(process, folder, "two"))
    for name in ("one", "three", "four"):
        assert enters(process, folder, name)
    pki(folder, "revoke", "one")
    eventually(lambda: not enters(process, folder, "one"))
    # The old root goes, and all that it vouched for.
    text = (folder / "authorities" / "device-ca-2.crt").read_bytes()
    (folder / "device-roots.pem").write_bytes(text)
    eventually(lambda: not enters(process, folder, "three"))
    assert enters(process, folder, "four")
