"""What is said about certificates and keys before the first port is opened."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.config import der
from mender_gateway.config.certificates import Findings, check_certificates
from mender_gateway.config.inspection import covers, look_closely
from mender_gateway.config.settings import (
    ArtifactsProxy,
    Config,
    Endpoint,
    Https,
    Mtls,
    UpstreamServer,
)
from tests.config.pki import key_pem, make_certificate, pem, write_pair

UPSTREAM = UpstreamServer(Endpoint("https", "hosted.mender.io", 443))


def serving(certificate: str, key: str, minimum: str = "1.2") -> Config:
    https = Https(
        enabled=True, server_certificate=certificate, server_key=key, minimum_tls_version=minimum
    )
    return Config(UPSTREAM, https=https)


def check(config: Config) -> Findings:
    return check_certificates(config, time.time())


def only_error(config: Config) -> str:
    found = check(config)
    (error,) = found.errors
    return error


def test_a_good_pair_with_its_chain_is_silent(tmp_path: Path) -> None:
    root = make_certificate("root", is_ca=True)
    leaf = make_certificate("gateway", issuer=root)
    config = serving(*write_pair(tmp_path, leaf, root))
    assert check(config) == Findings()
    assert look_closely(config) == []


def test_a_key_of_another_certificate_is_an_error(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path, make_certificate("gateway"))
    Path(key).write_bytes(key_pem(make_certificate("other")))
    error = only_error(serving(certificate, key))
    assert error.startswith(f"HTTPS.ServerKey: {key} does not belong to")
    assert certificate in error


def test_a_key_of_another_type_is_an_error(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path, make_certificate("gateway"))
    Path(key).write_bytes(
        key_pem(make_certificate("other", key=rsa.generate_private_key(65537, 2048)))
    )
    assert "does not belong to" in only_error(serving(certificate, key))


def test_absent_files_are_reported_both(tmp_path: Path) -> None:
    found = check(serving(str(tmp_path / "no.crt"), str(tmp_path / "no.key")))
    assert [error.partition(":")[0] for error in found.errors] == [
        "HTTPS.ServerCertificate",
        "HTTPS.ServerKey",
    ]
    assert all("No such file" in error for error in found.errors)


@pytest.mark.parametrize("content", [b"", b"nothing of the sort", b"\x30\x82\x01\x0a"])
def test_files_that_are_no_pem_are_reported_both(tmp_path: Path, content: bytes) -> None:
    certificate, key = write_pair(tmp_path, make_certificate("gateway"))
    Path(certificate).write_bytes(content)
    Path(key).write_bytes(content)
    found = check(serving(certificate, key))
    assert "holds no PEM certificate" in found.errors[0]
    assert "holds no PEM private key" in found.errors[1]


def test_a_damaged_certificate_is_an_error(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path, make_certificate("gateway"))
    lines = Path(certificate).read_text().splitlines()
    Path(certificate).write_text("\n".join([lines[0], *lines[3:]]))
    assert only_error(serving(certificate, key)).startswith("HTTPS.ServerCertificate: ")


@pytest.mark.parametrize("traditional", [True, False])
def test_a_key_with_a_passphrase_is_an_error_and_asks_nobody(
    tmp_path: Path, traditional: bool
) -> None:
    authority = make_certificate("gateway", key=rsa.generate_private_key(65537, 2048))
    certificate, key = write_pair(tmp_path, authority)
    Path(key).write_bytes(
        authority.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.BestAvailableEncryption(b"secret"),
        )
        if traditional
        else key_pem(authority, b"secret")
    )
    assert "passphrase" in only_error(serving(certificate, key))


def test_a_key_that_is_too_small_is_an_error(tmp_path: Path) -> None:
    small = make_certificate("gateway", key=rsa.generate_private_key(65537, 1024))
    assert "too small" in only_error(serving(*write_pair(tmp_path, small)))


def test_an_expired_certificate_is_a_warning_and_no_error(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, make_certificate("gateway", days=(-10, -1)))
    found = check(serving(*pair))
    assert found.errors == []
    (warning,) = found.warnings
    assert warning.startswith(f"HTTPS.ServerCertificate: {pair[0]} expired on ")


def test_a_certificate_of_the_future_is_a_warning(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, make_certificate("gateway", days=(1, 100)))
    (warning,) = check(serving(*pair)).warnings
    assert "not valid before" in warning


def test_the_end_of_a_certificate_is_announced(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, make_certificate("gateway", days=(-300, 5)))
    (warning,) = check(serving(*pair)).warnings
    assert "expires on" in warning


def test_an_expired_intermediate_is_a_warning(tmp_path: Path) -> None:
    ca = make_certificate("ca", is_ca=True, days=(-10, -1))
    pair = write_pair(tmp_path, make_certificate("gateway", issuer=ca), ca)
    (warning,) = check(serving(*pair)).warnings
    assert "intermediate 1" in warning


def test_a_key_that_everybody_reads_is_a_warning(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, make_certificate("gateway"))
    Path(pair[1]).chmod(0o644)
    (warning,) = check(serving(*pair)).warnings
    assert "chmod 600" in warning


@pytest.mark.parametrize("field", ["mender_password_file", "mender_token_file"])
def test_a_secret_that_everybody_reads_is_a_warning(field: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    config = Config(UPSTREAM, mtls=Mtls(enabled=True, **{field: str(secret)}))  # type: ignore[arg-type]
    secret.chmod(0o640)
    assert check(config).warnings == []
    secret.chmod(0o644)
    (warning,) = check(config).warnings
    assert f"chmod 600 {secret}" in warning


def test_bundles_are_loaded_and_expired_roots_counted(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(
        pem(make_certificate("a", is_ca=True), make_certificate("b", is_ca=True, days=(-9, -1)))
    )
    config = Config(UpstreamServer(UPSTREAM.url, ca_certificate=str(bundle)))
    found = check(config)
    assert found.errors == []
    assert found.warnings == [
        f"UpstreamServer.CACertificate: 1 of 2 certificates in {bundle} have expired"
    ]


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_bundles_that_cannot_be_loaded_are_errors(tmp_path: Path, content: bytes | None) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_bytes(content)
    config = Config(
        UpstreamServer(UPSTREAM.url, ca_certificate=str(bundle)),
        mtls=Mtls(enabled=True, ca_certificate=str(bundle), blacklist_path=str(tmp_path / "bl")),
    )
    errors = check(config).errors
    assert [error.partition(":")[0] for error in errors] == [
        "UpstreamServer.CACertificate",
        "Features.mTLS.CACertificate",
        "Features.mTLS.BlacklistPath",
    ]


def test_files_of_features_that_are_off_are_not_touched() -> None:
    config = Config(
        UPSTREAM,
        https=Https(server_certificate="/absent", server_key="/absent"),
        mtls=Mtls(ca_certificate="/absent", blacklist_path="/absent"),
    )
    assert check(config) == Findings()
    assert look_closely(config) == []


def test_a_closer_look_sees_a_chain_in_the_wrong_order(tmp_path: Path) -> None:
    root = make_certificate("root", is_ca=True)
    middle = make_certificate("middle", issuer=root, is_ca=True)
    leaf = make_certificate("gateway", issuer=middle)
    config = serving(*write_pair(tmp_path, leaf, root, middle))
    assert check(config).errors == []
    assert "not issued by certificate 2" in look_closely(config)[0]


def test_a_closer_look_compares_the_names_with_the_gateway_url(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, make_certificate("gateway", hosts=("other.example.com",)))
    url = Endpoint("https", "gateway.example.com", 443)
    config = Config(UPSTREAM, https=serving(*pair).https, artifacts_proxy=ArtifactsProxy(True, url))
    (line,) = look_closely(config)
    assert "gateway.example.com" in line
    assert "other.example.com" in line


def test_a_closer_look_misses_the_subject_alternative_name(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, make_certificate("gateway", hosts=()))
    (line,) = look_closely(serving(*pair))
    assert "subjectAltName" in line


def test_a_closer_look_finds_roots_that_are_none(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    small = make_certificate("small", is_ca=True, key=rsa.generate_private_key(65537, 1024))
    bundle.write_bytes(pem(make_certificate("leaf"), small))
    lines = look_closely(Config(UPSTREAM, mtls=Mtls(enabled=True, ca_certificate=str(bundle))))
    assert "certificate 1" in lines[0]
    assert "no CA certificate" in lines[0]
    assert "only 1024 bits" in lines[1]


def test_a_wildcard_covers_one_label() -> None:
    assert covers(["*.example.com"], "gateway.example.com")
    assert not covers(["*.example.com"], "example.com")
    assert not covers(["*.example.com"], "a.b.example.com")
    assert covers(["10.0.0.1"], "10.0.0.1")


@given(st.datetimes(datetime(1951, 1, 1), datetime(2200, 1, 1)), st.integers(1, 10**8))
def test_dates_are_read_as_a_library_reads_them(begin: datetime, seconds: int) -> None:
    start = begin.replace(microsecond=0, tzinfo=UTC).timestamp() - time.time()
    days = (start / 86400, (start + seconds) / 86400)
    certificate = make_certificate("x", days=days).certificate
    assert der.validity(certificate.public_bytes(serialization.Encoding.DER)) == (
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )


WHOLE = make_certificate("x").certificate.public_bytes(serialization.Encoding.DER)


@given(st.binary() | st.integers(0, len(WHOLE) - 1).map(lambda end: WHOLE[:end]))
def test_what_is_no_certificate_has_no_dates(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no X\.509"):
        der.validity(data)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_certificate_with_one_wrong_byte_is_read_or_refused(at: int, value: int) -> None:
    data = WHOLE[:at] + bytes([value]) + WHOLE[at + 1 :]
    try:
        begin, end = der.validity(data)
    except ValueError:
        return
    assert isinstance(begin + end, float)
