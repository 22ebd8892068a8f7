"""`check-config` reads roots, blacklist and revocation lists as the daemon does."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.cli.command import run
from tests.support.authority import Issued, authority, issue, new_key, revocation_list


@pytest.fixture(scope="module")
def root() -> Issued:
    return authority("Root")


def variables(folder: Path, *roots: Issued, **settings: str) -> dict[str, str]:
    certificate, key = issue("gateway", roots[0]).write(folder, "server")
    bundle = folder / "roots.pem"
    bundle.write_bytes(b"".join(each.pem for each in roots))
    return {
        "HTTPS_ENABLED": "true",
        "HTTPS_SERVER_CERTIFICATE": certificate,
        "HTTPS_SERVER_KEY": key,
        "UPSTREAM_SERVER_URL": "https://hosted.mender.io",
        "MTLS_ENABLED": "true",
        "MTLS_CA_CERTIFICATE": str(bundle),
        "MTLS_MENDER_TOKEN": "a.b.c",
        "MTLS_IDENTITY_FROM_CERTIFICATE": "mac=CN",
        **settings,
    }


def test_a_good_trust_gives_no_reason_to_complain(tmp_path: Path, root: Issued) -> None:
    done = run("check-config", variables=variables(tmp_path, root))
    assert done.returncode == 0
    assert "mTLS" not in done.stdout.partition("\n\n")[2]
    assert "a.b.c" not in done.stdout


def test_an_open_identity_is_warned_about(tmp_path: Path, root: Issued) -> None:
    settings = variables(tmp_path, root)
    del settings["MTLS_IDENTITY_FROM_CERTIFICATE"]
    done = run("check-config", variables=settings)
    assert done.returncode == 0
    assert "warning: Features.mTLS.IdentityFromCertificate: empty" in done.stdout
    assert "ANY device certificate may claim ANY identity" in done.stdout


def test_a_bad_line_of_the_blacklist_is_warned_about_by_its_number(
    tmp_path: Path, root: Issued
) -> None:
    blacklist = tmp_path / "blacklist"
    blacklist.write_text("AB\nnobody\n")
    done = run(
        "check-config", variables=variables(tmp_path, root, MTLS_BLACKLIST_PATH=str(blacklist))
    )
    assert done.returncode == 0
    assert f"warning: Features.mTLS.BlacklistPath: line 2 of {blacklist}" in done.stdout


def test_an_intermediate_without_its_root_is_warned_about(tmp_path: Path, root: Issued) -> None:
    done = run("check-config", variables=variables(tmp_path, authority("Between", root)))
    assert done.returncode == 0
    assert "CN=Between is an intermediate without its root" in done.stdout


def test_a_forged_revocation_list_is_an_error(tmp_path: Path, root: Issued) -> None:
    crl = tmp_path / "crl"
    crl.write_bytes(revocation_list(root, [], key=new_key("p256")).public_bytes(Encoding.PEM))
    done = run("check-config", variables=variables(tmp_path, root, MTLS_CRL_PATH=str(crl)))
    assert done.returncode == 1
    assert "error: Features.mTLS.CRLPath" in done.stdout
    assert "is not signed by that CA" in done.stdout
