"""Signed artifacts: which keys and signatures count, and that nothing else passes."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from mender_gateway.artifacts.description import decode
from mender_gateway.artifacts.signature import load_keys
from mender_gateway.artifacts.verify import ContentVerifier
from mender_gateway.cache.errors import VerificationFailed
from mender_gateway.cache.origin import Attributes
from mender_gateway.config.verify_keys import PublicKey
from mender_gateway.errors import ConfigError
from tests.artifacts.made import artifact, artifact_parts, packed, tar_of, verify

type_of_private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
type_of_sign = Callable[[bytes], bytes]

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def by_rsa(message: bytes) -> bytes:
    return RSA.sign(message, padding.PKCS1v15(), SHA256())


def by_ec_der(message: bytes) -> bytes:
    return EC.sign(message, ec.ECDSA(SHA256()))


def by_ec(message: bytes) -> bytes:
    r, s = utils.decode_dss_signature(by_ec_der(message))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def by_ed(message: bytes) -> bytes:
    return ED.sign(message)


def by_ed_of_digest(message: bytes) -> bytes:
    return ED.sign(hashlib.sha256(message).digest())


SIGNERS: list[tuple[type_of_private, type_of_sign]] = [
    (RSA, by_rsa),
    (EC, by_ec),
    (EC, by_ec_der),
    (ED, by_ed),
    (ED, by_ed_of_digest),
]


def pem(folder: Path, private: type_of_private, name: str = "key.pem") -> str:
    path = folder / name
    public = private.public_key()
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return str(path)


def key_of(folder: Path, private: type_of_private) -> PublicKey:
    (key,) = load_keys([pem(folder, private)])
    return key


def judge(data: bytes, *keys: PublicKey) -> str | None:
    return verify(data, ContentVerifier(Attributes(len(data)), keys))


@pytest.mark.parametrize(("private", "sign"), SIGNERS, ids=[sign.__name__ for _, sign in SIGNERS])
def test_a_signature_by_one_of_the_keys_is_accepted(
    tmp_path: Path, private: type_of_private, sign: type_of_sign
) -> None:
    other = key_of(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    key = key_of(tmp_path, private)
    described = decode(judge(artifact(sign=sign), other, key))
    assert described is not None
    assert described.verified
    assert described.signed
    assert described.key == key.identity


@pytest.mark.parametrize(("private", "sign"), SIGNERS, ids=[sign.__name__ for _, sign in SIGNERS])
def test_a_signature_of_something_else_is_refused(
    tmp_path: Path, private: type_of_private, sign: type_of_sign
) -> None:
    with pytest.raises(VerificationFailed, match="none of the keys"):
        judge(artifact(sign=lambda manifest: sign(manifest + b" ")), key_of(tmp_path, private))


@pytest.mark.parametrize("private", [RSA, EC, ED])
@pytest.mark.parametrize("signature", [b"", b"x" * 64, bytes(64), bytes(256), b"\x30\x06" * 36])
def test_what_is_no_signature_is_refused(
    tmp_path: Path, private: type_of_private, signature: bytes
) -> None:
    with pytest.raises(VerificationFailed, match="none of the keys"):
        judge(artifact(sign=lambda _: signature), key_of(tmp_path, private))


def test_a_signature_that_is_no_base64_is_refused(tmp_path: Path) -> None:
    parts = artifact_parts(sign=by_ec)
    parts["manifest.sig"] = b"\xff\xfe!"
    with pytest.raises(VerificationFailed, match="none of the keys"):
        judge(tar_of(parts), key_of(tmp_path, EC))


def test_the_refusal_comes_with_the_first_bytes(tmp_path: Path) -> None:
    """So that the rest of a large artifact need not cross the uplink."""
    data = artifact([{"a": bytes(5 << 20)}], compression="none", sign=by_rsa)
    verifier = ContentVerifier(Attributes(len(data)), (key_of(tmp_path, EC),))
    with pytest.raises(VerificationFailed, match="none of the keys"):
        verifier.feed(data[:4096])


@pytest.mark.parametrize("data", [b"no artifact" * 1000, b"", artifact(version=4, sign=by_rsa)])
def test_what_cannot_be_verified_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(VerificationFailed, match="signature cannot be verified"):
        judge(data, key_of(tmp_path, RSA))


def test_an_unsigned_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed, match="manifest is not signed"):
        judge(artifact(), key_of(tmp_path, RSA))


def test_a_signature_that_stands_elsewhere_does_not_count(tmp_path: Path) -> None:
    parts = artifact_parts(sign=by_rsa)
    parts["manifest.sig"] = parts.pop("manifest.sig")
    with pytest.raises(VerificationFailed, match="manifest is not signed"):
        judge(tar_of(parts), key_of(tmp_path, RSA))


@pytest.mark.parametrize("name", ["manifest-augment", "extra"])
def test_parts_that_the_signature_does_not_cover_are_refused(tmp_path: Path, name: str) -> None:
    parts = artifact_parts(sign=by_rsa)
    items = list(parts.items())
    items.insert(3, (name, b""))
    with pytest.raises(VerificationFailed, match="not covered by the signature"):
        judge(tar_of(dict(items)), key_of(tmp_path, RSA))


def test_a_signed_artifact_with_another_payload_is_refused(tmp_path: Path) -> None:
    parts = artifact_parts([{"a": b"good"}], sign=by_ed)
    parts["data/0000.tar.gz"] = packed(tar_of({"a": b"evil"}), "gzip")
    with pytest.raises(VerificationFailed, match="wrong checksum"):
        judge(tar_of(parts), key_of(tmp_path, ED))


class TestKeys:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "is no PEM public key"),
            (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "is no PEM public"),
            (
                EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
                "holds a private key",
            ),
            (
                ec.generate_private_key(ec.SECP384R1())
                .public_key()
                .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
                "is no RSA, ECDSA P-256 or Ed25519 key",
            ),
        ],
    )
    def test_an_unusable_key_is_one_clear_line(
        self, tmp_path: Path, content: bytes, reason: str
    ) -> None:
        path = tmp_path / "key.pem"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=reason) as error:
            load_keys([str(path)])
        assert str(path) in str(error.value)
        assert str(error.value).startswith("Features.ArtifactsProxy.ArtifactVerifyKeys: ")

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"absent\.pem: No such file"):
            load_keys([str(tmp_path / "absent.pem")])


def test_cryptography_is_not_imported_without_keys() -> None:
    program = (
        "import sys; import mender_gateway.artifacts.verify as v; "
        "from mender_gateway.cache.origin import Attributes; "
        "v.Verification().of('a')(Attributes(3)).finish(); "
        "print('cryptography' in sys.modules, 'zstandard' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"False False\n"
