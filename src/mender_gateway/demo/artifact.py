"""Mender artifacts, format version 3, written and read in flat memory.

An artifact is a tar of `version`, `manifest`, `header.tar.gz` (a tar of header-info and, for each
payload, type-info and meta-data) and `data/NNNN.tar[.gz]`, which holds the payload's files. The
manifest has a SHA-256 for version, header and every payload file; it comes before the data, so
payloads are read twice. Equal input gives equal bytes.
"""

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from mender_gateway.demo.blobs import Blob, Slice, digest

_VERSION = b'{"format":"mender","version":3}'
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """A written artifact."""

    path: Path
    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PayloadFile:
    name: str
    size: int
    checksum: str


@dataclass(frozen=True, slots=True)
class ArtifactInfo:
    """What the server keeps of an artifact's header (one payload)."""

    name: str
    device_types: tuple[str, ...]
    payload_type: str
    provides: dict[str, str]
    depends: dict[str, Any]
    clears: tuple[str, ...]
    signed: bool
    files: tuple[PayloadFile, ...]


class BadArtifact(Exception):
    """Not a Mender artifact of a version that this code reads; the text says why."""


def write_artifact(
    path: Path,
    *,
    name: str,
    device_types: Sequence[str],
    files: Mapping[str, Blob],
    payload_type: str = "single-file",
    compression: Literal["gzip", "none"] = "none",
    meta_data: object = None,
    mtime: float = 0,
) -> ArtifactFile:
    """Writes an artifact with one payload of `files`; blocks for as long as the disk takes.

    `compression` is that of the payload; the header is always compressed.
    """
    header = _header(name, device_types, payload_type, meta_data, provides="rootfs-image")
    lines = [f"{digest(blob, 'sha256')}  data/0000/{file}" for file, blob in files.items()]
    lines.append(f"{hashlib.sha256(header).hexdigest()}  header.tar.gz")
    lines.append(f"{hashlib.sha256(_VERSION).hexdigest()}  version")
    manifest = ("\n".join(lines) + "\n").encode()
    with path.open("wb") as out, tempfile.TemporaryFile(dir=path.parent) as data:
        _write_data(data, files, compression, mtime)
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for member, content in (
                ("version", _VERSION),
                ("manifest", manifest),
                ("header.tar.gz", header),
            ):
                tar.addfile(_entry(member, len(content)), io.BytesIO(content))
            size = data.tell()
            data.seek(0)
            suffix = ".tar.gz" if compression == "gzip" else ".tar"
            tar.addfile(_entry(f"data/0000{suffix}", size), data)
    return described(path, name)


def configuration_artifact(name: str, device_type: str, settings: Mapping[str, str]) -> bytes:
    """The small artifact, without payload files, of a configuration deployment."""
    header = _header(name, [device_type], "mender-configure", settings, provides="data-partition")
    lines = [
        f"{hashlib.sha256(header).hexdigest()}  header.tar.gz",
        f"{hashlib.sha256(_VERSION).hexdigest()}  version",
    ]
    data = io.BytesIO()
    _write_data(data, {}, "gzip", 0)
    parts = (
        ("version", _VERSION),
        ("manifest", ("\n".join(lines) + "\n").encode()),
        ("header.tar.gz", header),
        ("data/0000.tar.gz", data.getvalue()),
    )
    return _tar(parts)


def described(path: Path, name: str) -> ArtifactFile:
    """The size and digest of a file; reads all of it."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ArtifactFile(path, name, path.stat().st_size, sha256)


def read_artifact(path: Path) -> ArtifactInfo:
    """The header of an artifact; `BadArtifact` when it cannot be understood."""
    try:
        with tarfile.open(path, "r:") as tar:
            return _read(tar)
    except (tarfile.TarError, KeyError, ValueError, OSError, EOFError) as error:
        raise BadArtifact(f"not a Mender artifact: {error}") from None


def _read(tar: tarfile.TarFile) -> ArtifactInfo:
    version, manifest, header, data, signed = b"", b"", None, None, False
    while (member := tar.next()) is not None:
        content = tar.extractfile(member)
        if content is None:
            continue
        match member.name.split(".")[0]:
            case "version":
                version = content.read()
            case "manifest":
                if member.name == "manifest":
                    manifest = content.read()
                signed = signed or member.name == "manifest.sig"
            case "header":
                header = _members(content)
            case "data/0000":
                data = _sizes(content)
    if json.loads(version or b"{}") != json.loads(_VERSION) or header is None:
        raise BadArtifact("not a Mender artifact of version 3")
    info = json.loads(header["header-info"])
    types = json.loads(header["headers/0000/type-info"])
    files = tuple(
        PayloadFile(name.removeprefix("data/0000/"), (data or {})[name.rpartition("/")[2]], sha256)
        for sha256, name in (line.split(maxsplit=1) for line in manifest.decode().splitlines())
        if name.startswith("data/0000/")
    )
    provides = info["artifact_provides"]
    depends = info["artifact_depends"]
    return ArtifactInfo(
        name=provides["artifact_name"],
        device_types=tuple(depends["device_type"]),
        payload_type=types["type"],
        provides=provides | types.get("artifact_provides", {}),
        depends=depends | types.get("artifact_depends", {}),
        clears=tuple(types.get("clears_artifact_provides", ())),
        signed=signed,
        files=files,
    )


def _members(content: IO[bytes]) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=content, mode="r|*") as tar:
        for member in tar:
            extracted = tar.extractfile(member)
            if extracted is not None:
                found[member.name] = extracted.read()
    return found


def _sizes(content: IO[bytes]) -> dict[str, int]:
    with tarfile.open(fileobj=content, mode="r|*") as tar:
        return {member.name: member.size for member in tar}


def _header(
    name: str, device_types: Sequence[str], payload_type: str, meta_data: object, provides: str
) -> bytes:
    info = {
        "payloads": [{"type": payload_type}],
        "artifact_provides": {"artifact_name": name},
        "artifact_depends": {"device_type": list(device_types)},
    }
    types = {
        "type": payload_type,
        "artifact_provides": {f"{provides}.{payload_type}.version": name},
        "clears_artifact_provides": [f"{provides}.{payload_type}.*"],
    }
    parts = [("header-info", _json(info)), ("headers/0000/type-info", _json(types))]
    if meta_data is not None:
        parts.append(("headers/0000/meta-data", _json(meta_data)))
    return gzip.compress(_tar(parts), mtime=0)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _entry(name: str, size: int, mtime: float = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o600, int(mtime)
    return entry


def _tar(parts: Sequence[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in parts:
            tar.addfile(_entry(name, len(content)), io.BytesIO(content))
    return out.getvalue()


def _write_data(
    out: IO[bytes],
    files: Mapping[str, Blob],
    compression: Literal["gzip", "none"],
    mtime: float,
) -> None:
    """The payload's tar, at the end of which `out` stands."""
    if compression == "none":
        _write_files(out, files, mtime)
        return
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1, mtime=0) as packed:
        _write_files(packed, files, mtime)


def _write_files(out: IO[bytes] | gzip.GzipFile, files: Mapping[str, Blob], mtime: float) -> None:
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for name, blob in files.items():
            tar.addfile(_entry(name, blob.size, mtime), _BlobReader(blob))  # type: ignore[arg-type]


class _BlobReader:
    """A blob as tarfile reads it."""

    def __init__(self, blob: Blob) -> None:
        self._pieces = Slice.whole(blob).pieces(_PIECE)
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data
