"""Which chains get in and which do not, each refused for the right reason, in both TLS versions."""

import re
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.mtls.gateways import Guarded, guarded, refused
from tests.support.authority import Issued, authority, issue, new_key, openssl, shared_key

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


class Families:
    """CAs of one gateway."""

    def __init__(self) -> None:
        self.root = authority("Root", kind="p384")
        self.second = authority("Second Root", kind="rsa2048")
        self.stranger = authority("Stranger")
        self.namesake = authority("Root")
        """Another CA that calls itself as the root does."""
        self.expired_root = authority("Expired Root", days=(-30, -1))
        self.intermediate = authority("Intermediate", self.root, path_length=0)
        self.successor = authority("Intermediate 2", self.root)
        self.expired_intermediate = authority("Expired Intermediate", self.root, days=(-9, -1))
        self.cross_key = authority("Crossed")
        """The name and the key of an intermediate that several CAs sign."""
        self.too_deep = authority("Too Deep", self.intermediate)

    def via(self, issuer: Issued, *above: Issued, **options: object) -> Issued:
        return issue("device", issuer, **options).with_chain(issuer, *above)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def families() -> Families:
    return Families()


@pytest.fixture(scope="module")
def guard(families: Families, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    roots = [families.root, families.second, families.expired_root]
    with guarded(tmp_path_factory.mktemp("gate"), roots) as found:
        yield found


def not_a_ca(families: Families) -> Issued:
    issuer = issue("CA:FALSE", families.root, ca=False, key=new_key("p256"))
    return families.via(issuer)


def end_entity(families: Families) -> Issued:
    """A device that issues certificates; it has no basicConstraints at all."""
    return families.via(issue("device A", families.root, key=new_key("p256")))


def sign_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def only_key_usage(families: Families) -> Issued:
    """OpenSSL takes keyCertSign without basicConstraints for a CA; we do not."""
    issuer = issue(
        "No Constraints", families.root, key=new_key("p256"), extensions=[(sign_usage(), True)]
    )
    return families.via(issuer)


def constrained(families: Families) -> Issued:
    permitted = x509.NameConstraints([x509.DNSName("inside.example.com")], None)
    issuer = authority("Constrained", families.root, extensions=[(permitted, True)])
    return families.via(issuer, names=[x509.DNSName("outside.example.com")])


def excluded(families: Families) -> Issued:
    """The root's own constraint holds two floors below."""
    forbidden = x509.NameConstraints(None, [x509.DNSName("secret.example.com")])
    upper = authority("Excluding", families.root, extensions=[(forbidden, True)])
    lower = authority("Below", upper)
    return families.via(lower, upper, names=[x509.DNSName("a.secret.example.com")])


def cross_signed(families: Families, *, known_first: bool) -> Issued:
    """An intermediate that a known and an unknown root have signed; the device sends both."""
    key = families.cross_key.key
    both = [
        authority("Crossed", families.root, key=key),
        authority("Crossed", families.stranger, key=key),
    ]
    chain = both if known_first else both[::-1]
    return issue("device", families.cross_key).with_chain(*chain)


def renewed_beside_expired(families: Families) -> Issued:
    key = families.cross_key.key
    old = authority("Crossed", families.root, key=key, days=(-30, -1))
    new = authority("Crossed", families.root, key=key)
    return issue("device", families.cross_key).with_chain(old, new)


def sha1_leaf(families: Families) -> Issued:
    return signed_with_sha1(families.second, ca=False)


def sha1_intermediate(families: Families) -> Issued:
    return families.via(signed_with_sha1(families.second, ca=True))


def signed_with_sha1(issuer: Issued, *, ca: bool) -> Issued:
    """By the openssl command: the library does not do it any more."""
    key = new_key("p256")
    with tempfile.TemporaryDirectory() as folder:
        issuer_files = issuer.write(Path(folder), "issuer")
        _, key_file = issue("x", key=key).write(Path(folder), "own")
        Path(folder, "ext").write_text(f"basicConstraints=critical,CA:{'TRUE' if ca else 'FALSE'}")
        for command in (
            f"req -new -key {key_file} -subj /CN=SHA-1 -out csr",
            f"x509 -req -sha1 -in csr -CA {issuer_files[0]} -CAkey {issuer_files[1]} -days 5 "
            f"-extfile ext -out crt -set_serial {x509.random_serial_number()}",
        ):
            openssl(command, folder)
        return Issued(x509.load_pem_x509_certificate(Path(folder, "crt").read_bytes()), key)


def mangled(issuer: Issued, oid: x509.ObjectIdentifier) -> Issued:
    """A certificate with a critical extension that nobody can read."""
    extension = x509.UnrecognizedExtension(oid, b"\x30\x7f\x01")
    return issue("mangled", issuer, key=new_key("p256"), extensions=[(extension, True)])


def by_openssl(issuer: Issued, options: str) -> Issued:
    """A certificate without any extension, as `openssl x509 -req` makes it by default."""
    key = new_key("p256")
    with tempfile.TemporaryDirectory() as folder:
        certificate, signing_key = issuer.write(Path(folder), "issuer")
        _, key_file = issue("x", key=key).write(Path(folder), "own")
        openssl(f"req -new -key {key_file} -subj /CN=plain -out csr", folder)
        openssl(
            f"x509 -req -in csr -CA {certificate} -CAkey {signing_key} -days 5 -out crt {options}",
            folder,
        )
        return Issued(x509.load_pem_x509_certificate(Path(folder, "crt").read_bytes()), key)


def long_chain(families: Families, length: int) -> Issued:
    chain = [families.root]
    for number in range(length):
        chain.insert(0, authority(f"Link {number}", chain[0]))
    return issue("device", chain[0]).with_chain(*chain[:-1])


GOOD: dict[str, Callable[[Families], Issued]] = {
    "rsa2048": lambda f: issue("device", f.root, kind="rsa2048"),
    "rsa3072": lambda f: issue("device", f.root, kind="rsa3072"),
    "p256": lambda f: issue("device", f.root, kind="p256"),
    "p384": lambda f: issue("device", f.root, kind="p384"),
    "ed25519": lambda f: issue("device", f.root, kind="ed25519"),
    "leaf of the second root": lambda f: issue("device", f.second),
    "leaf with every usage": lambda f: issue("device", f.root, usages=[SERVER, CLIENT]),
    "leaf with clientAuth and a name": lambda f: issue(
        "device", f.root, ca=False, usages=[CLIENT], names=[x509.DNSName("device.example.com")]
    ),
    "intermediate": lambda f: f.via(f.intermediate),
    "intermediate and the root itself": lambda f: f.via(f.intermediate, f.root),
    "newer intermediate": lambda f: f.via(f.successor),
    "serial of one digit": lambda f: issue("device", f.root, serial=1),
    "version 1, as openssl makes it": lambda f: by_openssl(f.root, "-set_serial 77"),
    "chain of nine": lambda f: long_chain(f, 7),
    "cross-signed, known first": lambda f: cross_signed(f, known_first=True),
    "strangers' certificates beside": lambda f: f.via(f.intermediate, f.stranger, f.namesake),
    "renewed intermediate beside the expired one": renewed_beside_expired,
    "RSA-PSS": lambda f: by_openssl(f.second, "-set_serial 78 -sigopt rsa_padding_mode:pss"),
}

BAD: dict[str, tuple[Callable[[Families], Issued], str]] = {
    "other CA": (lambda f: issue("device", f.stranger), "unknown-ca"),
    "self-signed": (lambda f: issue("device"), "unknown-ca"),
    "other CA of equal name": (lambda f: issue("device", f.namesake), "bad-signature|unknown-ca"),
    "issuer's name alone": (
        lambda f: issue("device", f.stranger, issuer_name="Root"),
        "bad-signature|unknown-ca",
    ),
    "intermediate not sent": (lambda f: issue("device", f.intermediate), "unknown-ca"),
    "expired": (lambda f: issue("device", f.root, days=(-9, -1)), "expired"),
    "not yet valid": (lambda f: issue("device", f.root, days=(1, 9)), "not-yet-valid"),
    "expired intermediate": (lambda f: f.via(f.expired_intermediate), "expired"),
    "expired root": (lambda f: issue("device", f.expired_root), "expired"),
    "path length": (lambda f: f.via(f.too_deep, f.intermediate), "path-length"),
    "CA:FALSE": (not_a_ca, "not-a-ca"),
    "issued by a device": (end_entity, "not-a-ca|unknown-ca"),
    "keyCertSign without constraints": (only_key_usage, "not-a-ca"),
    "name constraints": (constrained, "name-constraint"),
    "serverAuth only": (lambda f: issue("device", f.root, usages=[SERVER]), "purpose"),
    "RSA 1024": (lambda f: issue("device", f.root, kind="rsa1024"), "weak-key"),
    "RSA 1024 intermediate": (
        lambda f: f.via(authority("Weak", f.root, key=shared_key("rsa1024"))),
        "weak-key",
    ),
    "SHA-1": (sha1_leaf, "weak-digest"),
    "SHA-1 intermediate": (sha1_intermediate, "weak-digest"),
    "malformed constraints": (
        lambda f: f.via(mangled(f.root, x509.BasicConstraints.oid)),
        "unknown-ca",
    ),
    "malformed names": (
        lambda f: f.via(mangled(f.root, x509.SubjectAlternativeName.oid)),
        "unknown-ca",
    ),
    "unknown critical extension": (
        lambda f: mangled(f.root, x509.ObjectIdentifier("1.2.3.4")),
        "malformed",
    ),
    "negative serial": (lambda f: by_openssl(f.root, "-set_serial -77"), "malformed"),
    "serial zero": (lambda f: by_openssl(f.root, "-set_serial 0"), "malformed"),
    "usage without digital signature": (
        lambda f: issue("device", f.root, extensions=[(sign_usage(), True)]),
        "purpose",
    ),
    "intermediate for servers": (
        lambda f: f.via(
            authority("Servers", f.root, extensions=[(x509.ExtendedKeyUsage([SERVER]), False)])
        ),
        "purpose",
    ),
    "RSA-PSS with SHA-1": (
        lambda f: by_openssl(f.second, "-set_serial 79 -sha1 -sigopt rsa_padding_mode:pss"),
        "weak-digest",
    ),
    "cross-signed by an expired CA alone": (
        lambda f: issue("device", f.cross_key).with_chain(
            authority("Crossed", f.expired_intermediate, key=f.cross_key.key),
            f.expired_intermediate,
        ),
        "expired",
    ),
    # OpenSSL does not go back and try the second one; documented.
    "cross-signed, unknown first": (lambda f: cross_signed(f, known_first=False), "unknown-ca"),
    "excluded name": (excluded, "name-constraint"),
    "a device's certificate as its own intermediate": (
        lambda f: f.via(issue("device", f.root, key=new_key("p256")), f.intermediate),
        "not-a-ca|unknown-ca",
    ),
    "chain of eleven": (lambda f: long_chain(f, 9), "chain-too-long"),
    "chain of a hundred": (lambda f: long_chain(f, 98), "chain-too-long|unknown-ca"),
}


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("name", GOOD)
def test_a_good_chain_gets_in(
    name: str, version: ssl.TLSVersion, guard: Guarded, families: Families
) -> None:
    assert guard.ask(GOOD[name](families), version) == 200


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_bad_chain_is_refused_for_the_right_reason(
    name: str, version: ssl.TLSVersion, guard: Guarded, families: Families
) -> None:
    make, reason = BAD[name]
    device = make(families)
    before = guard.upstream.accepted
    counted = {name: refused(guard, name) for name in reason.split("|")}
    assert guard.ask(device, version) is None
    assert guard.upstream.accepted == before
    after = {name: refused(guard, name) for name in reason.split("|")}
    assert sum(after.values()) == sum(counted.values()) + 1
    if device.serial < 1:  # not even its subject is believed
        return
    serial = f"{device.serial:X}"
    serial = serial if len(serial) % 2 == 0 else f"0{serial}"
    line = guard.gateway.wait_for_log(rf'msg="TLS client refused".* serial={serial} .*')[0]
    assert re.search(rf"reason=({reason}) ", line), line
    assert f'subject="{device.certificate.subject.rfc4514_string()}"' in line
    assert "peer=127.0.0.1" in line


def test_a_client_without_certificate_is_refused(guard: Guarded) -> None:
    from tests.support.scripted import connect

    for version in VERSIONS:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        with pytest.raises((OSError, EOFError)):
            peer = connect(guard.gateway.ports["https"], context)
            with peer.sock:
                peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                peer.answer()
    guard.gateway.wait_for_log(r'msg="TLS client refused" peer=127.0.0.1 reason=no-certificate')


@pytest.mark.parametrize(
    ("position", "byte"),
    [(0, 0x31), (1, 0x84), (2, 0xFF), (6, 0x00)],
    ids=lambda value: f"{value:x}",
)
def test_a_malformed_certificate_is_refused(
    position: int, byte: int, guard: Guarded, families: Families
) -> None:
    before = refused(guard, "malformed")
    show_spoilt(guard, issue("spoilt", families.root), position, byte)
    assert refused(guard, "malformed") == before + 1


def test_a_certificate_that_openssl_alone_can_read_is_refused_like_any_other(
    guard: Guarded, families: Families
) -> None:
    """Of X.509 version 25: there is none, and OpenSSL does not mind."""
    device = issue("spoilt", families.root)
    der = device.certificate.public_bytes(Encoding.DER)
    at = der.index(b"\xa0\x03\x02\x01\x02") + 4
    before = refused(guard, "bad-signature")
    show_spoilt(guard, device, at, 24)
    assert refused(guard, "bad-signature") == before + 1
    assert "Traceback" not in guard.gateway.log


def show_spoilt(guard: Guarded, device: Issued, position: int, byte: int) -> None:
    """TLS 1.2 sends the certificate in the clear, so that it can be spoilt on the way."""
    der = device.certificate.public_bytes(Encoding.DER)
    spoilt = der[:position] + bytes([byte]) + der[position + 1 :]
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = guard.context(device, ssl.TLSVersion.TLSv1_2)
    client = context.wrap_bio(incoming, outgoing)
    with socket.create_connection(("127.0.0.1", guard.gateway.ports["https"]), 20) as sock:
        sent = b""
        with pytest.raises(ssl.SSLError, match=r"ALERT|EOF"):
            while True:
                try:
                    client.do_handshake()
                except ssl.SSLWantReadError:
                    data = outgoing.read()
                    sent += data
                    sock.sendall(data.replace(der, spoilt))
                    received = sock.recv(65536)
                    incoming.write(received) if received else incoming.write_eof()
    assert der in sent
