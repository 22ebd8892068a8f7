"""Auth requests are read in one way only, and forged ones are never acted upon."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.demo.keys import signature
from mender_gateway.devices.auth_request import Ambiguous, Unreadable, is_signed, load_key, parse
from tests.support.authority import Issued, PrivateKey, issue, shared_key

KINDS = ["rsa3072", "p256", "p384", "ed25519"]
LEAF = issue("device")


def pem(key: PrivateKey) -> str:
    return Issued(LEAF.certificate, key).public_pem


def body(identity: Any = None, pubkey: str | None = None, **more: Any) -> bytes:
    value = {
        "id_data": json.dumps(identity or {"mac": "x"}),
        "pubkey": pubkey or pem(shared_key("p256")),
        **more,
    }
    return json.dumps(value).encode()


@pytest.mark.parametrize("kind", KINDS)
def test_a_signed_request_is_known_as_such(kind: str) -> None:
    key = shared_key(kind)
    text = body(pubkey=pem(key)) + b"\n"
    request = parse(text)
    assert is_signed(request, text, signature(key, text).encode())
    assert not is_signed(request, text.rstrip(), signature(key, text).encode())


@given(st.data())
def test_no_changed_byte_of_body_or_signature_passes(data: st.DataObject) -> None:
    key = shared_key(data.draw(st.sampled_from(["p256", "ed25519"])))
    text = body(pubkey=pem(key))
    request = parse(text)
    good = signature(key, text).encode()
    raw = bytearray(base64.b64decode(good))
    place = data.draw(st.integers(0, 255)) % len(raw)
    raw[place] ^= data.draw(st.integers(1, 255))
    assert not is_signed(request, text, base64.b64encode(raw))
    spoilt = bytearray(text)
    place = data.draw(st.integers(0, 1023)) % len(text)
    spoilt[place] ^= data.draw(st.integers(1, 255))
    assert not is_signed(request, bytes(spoilt), good)
    assert is_signed(request, text, good)


@given(st.binary(max_size=300))
def test_no_other_signature_passes(raw: bytes) -> None:
    text = body()
    assert not is_signed(parse(text), text, base64.b64encode(raw))
    assert not is_signed(parse(text), text, raw)


def test_the_key_of_another_kind_does_not_pass() -> None:
    for kind in KINDS:
        for other in KINDS:
            text = body(pubkey=pem(shared_key(kind)))
            signed = signature(shared_key(other), text).encode()
            assert is_signed(parse(text), text, signed) is (kind == other)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1, max_size=8), values, min_size=1, max_size=5))
def test_an_identity_is_the_same_in_any_order_and_spacing(identity: dict[str, Any]) -> None:
    turned = dict(reversed(list(identity.items())))
    one = {"id_data": json.dumps(identity), "pubkey": pem(shared_key("p256"))}
    two = {"id_data": json.dumps(turned, indent=2), "pubkey": pem(shared_key("p256"))}
    first, second = parse(json.dumps(one).encode()), parse(json.dumps(two).encode())
    assert first.canonical == second.canonical
    assert first.attributes == identity


NAMES = ["id_data", "pubkey", "tenant_token"]


@given(
    st.sampled_from(NAMES),
    st.lists(st.booleans(), min_size=12, max_size=12),
    st.booleans(),
)
def test_a_second_or_otherwise_spelled_member_is_ambiguous(
    name: str, upper: list[bool], alone: bool
) -> None:
    variant = "".join(c.upper() if up else c for c, up in zip(name, upper, strict=False))
    value = json.loads(body(tenant_token=""))
    pairs = [f"{json.dumps(key)}:{json.dumps(item)}" for key, item in value.items()]
    if alone:
        pairs = [pair for pair in pairs if not pair.startswith(f'"{name}"')]
        if variant == name:
            return
    pairs.append(f'"{variant}":{json.dumps(value[name])}')
    with pytest.raises(Ambiguous):
        parse(("{" + ",".join(pairs) + "}").encode())


@pytest.mark.parametrize(
    "identity",
    [
        '{"a":1,"a":2}',
        '{"a":{"b":1,"b":2}}',
        '{"a":[{"b":1,"b":1}]}',
        '{"\\u0061":1,"a":1}',
        # Go reads the same name twice, and the same value.
        '{"a\\ud800":1,"a\\udbff":2}',
        '{"a":"\\udc00"}',
        '{"a":["\ud800"]}',
    ],
)
def test_an_identity_with_two_readings_is_ambiguous(identity: str) -> None:
    text = json.dumps({"id_data": identity, "pubkey": pem(shared_key("p256"))}).encode()
    with pytest.raises(Ambiguous):
        parse(text)


def test_an_identity_may_have_members_that_differ_in_case() -> None:
    assert parse(body({"mac": 1, "MAC": 2})).attributes == {"mac": 1, "MAC": 2}


GOOD = pem(shared_key("p256"))


@pytest.mark.parametrize(
    "pubkey",
    [
        "",
        "x",
        GOOD + GOOD,
        "before\n" + GOOD,
        GOOD + "after",
        GOOD.replace("PUBLIC KEY", "CERTIFICATE"),
        GOOD.replace("\nM", "\nProc-Type: 4,ENCRYPTED\n\nM", 1),
        GOOD[:60] + GOOD[70:],
        GOOD.replace("-----BEGIN", "----- BEGIN"),
        "A" * 100_000,
        LEAF.pem.decode(),
    ],
)
def test_a_key_that_another_reader_could_read_otherwise_is_not_read(pubkey: str) -> None:
    with pytest.raises(Unreadable):
        parse(body(pubkey=pubkey or " "))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"id_data":NaN}',
        b'{"id_data":"{}","pubkey":"x"}',
        body() + b"{}",
        body().replace(b'"id_data": "', b'"id_data": "x'),
        json.dumps({"id_data": "[]", "pubkey": GOOD}).encode(),
        json.dumps({"id_data": "{}", "pubkey": GOOD}).encode(),
        json.dumps({"id_data": {"mac": 1}, "pubkey": GOOD}).encode(),
    ],
)
def test_what_is_no_request_is_left_to_the_server(text: bytes) -> None:
    with pytest.raises(Unreadable):
        parse(text)


@given(st.binary(max_size=300) | st.text(alphabet='{}[]":,abid_pukey\\ "', max_size=80))
def test_any_bytes_are_read_or_not_but_never_a_fault(data: bytes | str) -> None:
    try:
        parse(data.encode() if isinstance(data, str) else data)
    except (Unreadable, Ambiguous):
        pass


def test_equal_pairs_of_identity_and_key_are_remembered_by_a_few_bytes() -> None:
    request = parse(body({"a": "x" * 100_000, "b": 1}))
    assert len(request.digest) == 32
    assert request.digest == parse(body({"b": 1, "a": "x" * 100_000})).digest
    others = (body({"a": "x" * 100_000, "b": 2}), body({"a": "x"}, pem(shared_key("p384"))))
    assert request.digest not in {parse(each).digest for each in others}


@pytest.mark.parametrize(
    ("kind", "weak"), [("rsa1024", True), ("rsa2048", False), ("p256", False), ("ed25519", False)]
)
def test_a_key_that_others_can_find_is_weak(kind: str, weak: bool) -> None:
    assert (parse(body(pubkey=pem(shared_key(kind)))).weakness is not None) is weak


def rsa_key(modulus_bits: int, exponent: int) -> str:
    """Nobody has its private part, and no reader minds."""
    modulus = (1 << modulus_bits) - 159
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    form = PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(Encoding.PEM, form).decode()


def test_an_exponent_that_takes_long_to_verify_with_is_not_read() -> None:
    assert load_key(rsa_key(2048, 2**31 - 1))
    for modulus, exponent in ((2048, 2**31 + 1), (3072, 2**3071 + 1), (16384, 2**63 + 1)):
        with pytest.raises(Unreadable):
            load_key(rsa_key(modulus, exponent))
    with pytest.raises(Unreadable):
        load_key(rsa_key(65536, 65537))
