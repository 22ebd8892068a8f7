"""What start and `check-config` warn about when mutual TLS is on."""

from typing import Any

import pytest

from mender_gateway.config.load import load
from tests.config.files import Write

PASSWORD: dict[str, Any] = {"MenderUsername": "u", "MenderPassword": "p"}
BOUND: dict[str, Any] = {**PASSWORD, "IdentityFromCertificate": {"mac": "CN"}}


def warnings(write: Write, url: str = "https://u", **mtls: Any) -> list[str]:
    document = {
        "HTTPS": {"Enabled": True, "ServerCertificate": "/c", "ServerKey": "/k"},
        "UpstreamServer": {"URL": url},
        "Features": {"mTLS": {"Enabled": True, "CACertificate": "/r", **mtls}},
    }
    return list(load(write(document), {}).warnings)


def test_bound_identities_need_no_warning(write: Write) -> None:
    assert warnings(write, **BOUND) == []
    assert warnings(write, **BOUND, RequireMatchingKey=True) == []


def test_identities_that_are_not_bound_are_warned_about(write: Write) -> None:
    (warning,) = warnings(write, **PASSWORD)
    assert "ANY device certificate may claim ANY identity" in warning
    (warning,) = warnings(write, **PASSWORD, RequireMatchingKey=True)
    assert "not to an identity" in warning


def test_expired_certificates_that_are_let_in_are_warned_about(write: Write) -> None:
    (warning,) = warnings(write, **BOUND, InsecureSkipClientExpireAfter=True)
    assert "EXPIRED device certificates" in warning


def test_missing_credentials_are_warned_about(write: Write) -> None:
    (warning,) = warnings(write, IdentityFromCertificate={"mac": "CN"})
    assert "MenderPassword" in warning
    assert warnings(write, IdentityFromCertificate={"mac": "CN"}, MenderToken="a.b.c") == []


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://mender.example.com", True),
        ("http://10.0.0.1:8080", True),
        ("https://mender.example.com", False),
        ("http://127.0.0.1:8080", False),
        ("http://[::1]:8080", False),
        ("http://localhost", False),
    ],
)
def test_a_password_in_the_clear_is_warned_about(write: Write, url: str, warned: bool) -> None:
    found = warnings(write, url, **BOUND)
    assert [warning for warning in found if "plain http" in warning] == found
    assert bool(found) is warned
    assert all("ANYBODY" in warning for warning in found)
