"""Artifacts as mender-artifact itself writes them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mender_gateway.artifacts.description import Description, decode
from mender_gateway.artifacts.signature import load_keys
from mender_gateway.artifacts.verify import ContentVerifier
from mender_gateway.cache.errors import VerificationFailed
from mender_gateway.cache.origin import Attributes
from tests.artifacts.made import verify

pytestmark = pytest.mark.skipif(
    shutil.which("mender-artifact") is None or shutil.which("openssl") is None,
    reason="needs mender-artifact and openssl",
)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def written(folder: Path, kind: str, *arguments: str, kib: int = 700) -> bytes:
    payload = folder / "payload.bin"
    payload.write_bytes(os.urandom(kib * 512) + bytes(kib * 512))
    out = folder / "made.mender"
    what = ["-f", str(payload), "-t", "board-1", "-n", "release-7", "-o", str(out)]
    run("mender-artifact", "write", kind, *what, *arguments)
    return out.read_bytes()


def judge(data: bytes, *keys: Path) -> Description:
    loaded = load_keys([str(key) for key in keys])
    described = decode(verify(data, ContentVerifier(Attributes(len(data)), loaded)))
    assert described is not None
    return described


@pytest.mark.parametrize("compression", ["gzip", "lzma", "none"])
def test_a_module_image_is_accepted_and_any_damage_to_its_payload_is_not(
    tmp_path: Path, compression: str
) -> None:
    second = tmp_path / "second.conf"
    second.write_bytes(b"x" * 1234)
    options = ("-T", "script-x", "-f", str(second), "--compression", compression)
    data = written(tmp_path, "module-image", *options)
    described = judge(data)
    assert described.artifact_name == "release-7"
    assert described.device_types == ("board-1",)
    assert described.payload_types == ("script-x",)
    assert described.verified
    changed = bytearray(data)
    changed[len(data) // 3] ^= 1
    with pytest.raises(VerificationFailed):
        judge(bytes(changed))


@pytest.mark.parametrize("version", ["2", "3"])
def test_a_rootfs_image_is_accepted(tmp_path: Path, version: str) -> None:
    described = judge(written(tmp_path, "rootfs-image", "-v", version))
    assert described.verified
    assert described.payload_types == ("rootfs-image",)
    assert described.artifact_name == "release-7"


def test_a_bootstrap_artifact_is_accepted(tmp_path: Path) -> None:
    out = tmp_path / "boot.mender"
    run("mender-artifact", "write", "bootstrap-artifact", "-n", "b", "-t", "t", "-o", str(out))
    assert judge(out.read_bytes()).verified


def test_an_augmented_artifact_is_accepted(tmp_path: Path) -> None:
    meta = tmp_path / "meta.json"
    meta.write_text('{"a": 1}')
    extra = tmp_path / "extra.bin"
    extra.write_bytes(b"extra")
    options = ["-T", "m", "-m", str(meta), "--augment-type", "m", "--augment-file", str(extra)]
    described = judge(written(tmp_path, "module-image", *options, "--augment-meta-data", str(meta)))
    assert described.verified


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_a_signature_is_verified(tmp_path: Path, kind: str) -> None:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    if kind == "rsa":
        run("openssl", "genrsa", "-traditional", "-out", str(private), "2048")
    else:
        parameters = ("-name", "prime256v1", "-genkey", "-noout")
        run("openssl", "ecparam", *parameters, "-out", str(private))
    run("openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public))
    data = written(tmp_path, "module-image", "-T", "script-x", "-k", str(private))
    described = judge(data, public)
    assert described.verified
    assert described.signed
    assert described.key is not None
    unsigned = written(tmp_path, "module-image", "-T", "script-x")
    with pytest.raises(VerificationFailed, match="not signed"):
        judge(unsigned, public)
