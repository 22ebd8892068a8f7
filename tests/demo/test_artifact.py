"""Artifacts: valid to the real tool, equal for equal input, flat in memory, readable again."""

import json
import shutil
import subprocess
import tarfile
import tracemalloc
from pathlib import Path
from typing import Literal

import pytest

from mender_gateway.demo.artifact import (
    BadArtifact,
    configuration_artifact,
    read_artifact,
    write_artifact,
)
from mender_gateway.demo.blobs import BytesBlob, GeneratedBlob, digest

TOOL = shutil.which("mender-artifact")
needs_tool = pytest.mark.skipif(TOOL is None, reason="mender-artifact is not installed")


def tool(*arguments: str) -> str:
    assert TOOL is not None
    done = subprocess.run(
        [TOOL, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@needs_tool
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_the_real_tool_validates_and_reads_an_artifact(
    tmp_path: Path, compression: Literal["none", "gzip"]
) -> None:
    payload = GeneratedBlob(300_000, seed=7)
    path = tmp_path / "a.mender"
    write_artifact(
        path,
        name="release-1",
        device_types=["board-a", "board-b"],
        files={"payload": payload, "note": BytesBlob(b"hello")},
        payload_type="directory",
        compression=compression,
        meta_data={"key": "value"},
    )
    assert "validated successfully" in tool("validate", str(path))
    shown = tool("read", str(path))
    for text in ("Name: release-1", "[board-a board-b]", "Type:   directory", '"key": "value"'):
        assert text in shown
    assert digest(payload, "sha256") in shown


@needs_tool
def test_the_real_tool_reads_a_configuration_artifact(tmp_path: Path) -> None:
    path = tmp_path / "c.mender"
    path.write_bytes(configuration_artifact("configuration-1", "board", {"timezone": "UTC"}))
    shown = tool("read", str(path))
    assert "Type:   mender-configure" in shown
    assert '"timezone": "UTC"' in shown


@needs_tool
@pytest.mark.parametrize("compression", ["none", "gzip", "lzma"])
def test_artifacts_of_the_real_tool_are_read(tmp_path: Path, compression: str) -> None:
    payload = tmp_path / "payload.bin"
    payload.write_bytes(GeneratedBlob(50_000).read(0, 50_000))
    path = tmp_path / "a.mender"
    tool(
        *("write", "module-image", "-T", "single-file", "-n", "rel", "-t", "board"),
        *("-f", str(payload), "-o", str(path), "--compression", compression),
    )
    info = read_artifact(path)
    assert (info.name, info.device_types, info.payload_type) == ("rel", ("board",), "single-file")
    assert [(file.name, file.size) for file in info.files] == [("payload.bin", 50_000)]
    assert info.provides["rootfs-image.single-file.version"] == "rel"


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    payload = GeneratedBlob(100_000)
    path = tmp_path / "a.mender"
    written = write_artifact(
        path, name="release-1", device_types=["board"], files={"payload": payload}
    )
    info = read_artifact(path)
    assert info.name == "release-1"
    assert not info.signed
    [file] = info.files
    assert (file.name, file.size, file.checksum) == ("payload", 100_000, digest(payload, "sha256"))
    assert written.size == path.stat().st_size
    with tarfile.open(path) as tar:
        names = tar.getnames()
        version = tar.extractfile("version")
        assert version is not None
        assert json.loads(version.read()) == {"format": "mender", "version": 3}
    assert names == ["version", "manifest", "header.tar.gz", "data/0000.tar"]


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    first, second = (
        write_artifact(
            tmp_path / name,
            name="release-1",
            device_types=["board"],
            files={"payload": GeneratedBlob(70_000, seed)},
            compression="gzip",
        ).sha256
        for name, seed in (("a", 1), ("b", 1))
    )
    assert first == second


def test_a_large_payload_takes_no_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        artifact = write_artifact(
            tmp_path / "a",
            name="release-1",
            device_types=["board"],
            files={"payload": GeneratedBlob(64_000_000)},
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert artifact.size > 64_000_000
    assert peak < 16_000_000


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, b"\0" * 10240])
def test_what_is_no_artifact_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(BadArtifact):
        read_artifact(path)
