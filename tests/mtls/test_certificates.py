"""Certificates that strangers make up are read, or not read, and nothing else comes of them."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.net.certificate import ClientCertificate, Unreadable
from mender_gateway.observed import of_certificate
from tests.support.authority import authority, issue

DERS = [
    made.certificate.public_bytes(Encoding.DER)
    for made in (
        issue("x", names=[x509.DNSName("a"), x509.RFC822Name("a@b.c")], ca=False),
        issue("x", usages=[x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]),
        authority("r", kind="ed25519"),
    )
]
BYTES = st.sampled_from([0x00, 0x01, 0x03, 0x13, 0x17, 0x18, 0x30, 0xA3, 0xFF]) | st.integers(
    0, 255
)


@pytest.mark.filterwarnings("ignore")
@given(st.sampled_from(DERS), st.lists(st.tuples(st.integers(0, 2000), BYTES), max_size=5))
def test_a_mangled_certificate_is_read_or_not_and_never_a_fault(
    der: bytes, changes: list[tuple[int, int]]
) -> None:
    mangled = bytearray(der)
    for place, byte in changes:
        mangled[place % len(mangled)] = byte
    try:
        certificate = ClientCertificate(bytes(mangled))
    except Unreadable:
        return
    assert of_certificate(certificate).keys() == {"subject", "serial", "issuer", "expires"}
    assert isinstance(certificate.is_self_issued, bool)
    assert isinstance(certificate.is_ca, bool)
    certificate.common_names()
    certificate.alternative_names()
    for name in ("weakness", "weak_digest", "public_key"):
        try:
            getattr(certificate, name)
        except Unreadable:
            pass


@pytest.mark.parametrize("version", [1, 3, 24, 127])
def test_a_certificate_of_an_unknown_version_is_unreadable(version: int) -> None:
    der = DERS[0].replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01" + bytes([version]), 1)
    with pytest.raises(Unreadable):
        ClientCertificate(der)
