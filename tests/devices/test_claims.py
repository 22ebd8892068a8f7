"""Whether an identity agrees with a certificate."""

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from mender_gateway.devices.auth_request import AuthRequest, parse
from mender_gateway.devices.claims import disagreement
from mender_gateway.net.certificate import ClientCertificate
from tests.devices.test_auth_request import body
from tests.support.authority import issue, new_key


def certificate(name: str = "x", **options: Any) -> ClientCertificate:
    made = issue(name, key=new_key("p256"), **options).certificate
    return ClientCertificate(made.public_bytes(Encoding.DER))


def claim(identity: dict[str, Any]) -> AuthRequest:
    return parse(body(identity))


def agrees(identity: dict[str, Any], shown: ClientCertificate, field: str) -> bool:
    found = disagreement(claim(identity), shown, matching_key=False, fields=[("id", field)])
    return found is None


@pytest.mark.parametrize(
    ("claimed", "name", "expected"),
    [
        ("aa:bb", "aa:bb", True),
        ("aa:bb", "AA:BB", False),
        ("aa:bb ", "aa:bb", False),
        (7, "7", True),
        (-7, "-7", True),
        (2**53 - 1, str(2**53 - 1), True),
        # Numbers that the server cannot tell from others, and values of many spellings.
        (2**53, str(2**53), False),
        (2**53 + 1, str(2**53 + 1), False),
        (7.0, "7.0", False),
        (1e300, "1e+300", False),
        (True, "True", False),
        (["a"], "['a']", False),
        ({"a": 1}, "{'a': 1}", False),
        ("", "x", False),
    ],
)
def test_a_common_name_is_claimed_in_one_spelling_alone(
    claimed: object, name: str, expected: bool
) -> None:
    assert agrees({"id": claimed}, certificate(name), "CN") is expected


def test_a_missing_attribute_and_a_null_agree_with_nothing() -> None:
    assert not agrees({"other": "x"}, certificate("x"), "CN")
    assert not agrees({"id": None}, certificate("None"), "CN")


def test_a_serial_number_agrees_in_usual_spellings() -> None:
    shown = certificate(serial=0x0A1B2C)
    for spelling in ("a1b2c", "0A1B2C", "0x0a1b2c", "0A:1B:2C"):
        assert agrees({"id": spelling}, shown, "serial")
    for other in ("a1b2d", "", "0x", str(0x0A1B2C), "a1b2c\n", "ａ1b2c"):
        assert not agrees({"id": other}, shown, "serial")


def test_any_alternative_name_agrees_whole() -> None:
    names = [x509.DNSName("press-1.example.com"), x509.UniformResourceIdentifier("urn:mac:aa")]
    shown = certificate(names=names)
    assert agrees({"id": "press-1.example.com"}, shown, "SAN")
    assert agrees({"id": "urn:mac:aa"}, shown, "SAN")
    assert not agrees({"id": "example.com"}, shown, "SAN")
    assert not agrees({"id": "x"}, certificate("x"), "SAN")


def test_of_two_common_names_neither_vouches() -> None:
    key = new_key("p256")
    template = issue("a", key=key).certificate
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in ("a", "b")])
    builder = x509.CertificateBuilder(
        subject,
        subject,
        key.public_key(),
        5,
        template.not_valid_before_utc,
        template.not_valid_after_utc,
    )
    made = builder.sign(key, template.signature_hash_algorithm)  # type: ignore[arg-type]
    shown = ClientCertificate(made.public_bytes(Encoding.DER))
    assert not agrees({"id": "a"}, shown, "CN")
    assert not agrees({"id": "b"}, shown, "CN")
