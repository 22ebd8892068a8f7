"""Mender artifacts made for tests, whole or with a chosen fault, and read back independently."""

import base64
import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Mapping
from typing import Any

import zstandard

from mender_gateway.artifacts.verify import ContentVerifier
from mender_gateway.cache.origin import Attributes

SUFFIXES = {"none": "", "gzip": ".gz", "xz": ".xz", "zstd": ".zst"}


def packed(data: bytes, compression: str) -> bytes:
    match compression:
        case "gzip":
            return gzip.compress(data, mtime=0)
        case "xz":
            return lzma.compress(data, preset=0)
        case "zstd":
            return zstandard.ZstdCompressor(write_checksum=True).compress(data)
    return data


def tar_of(parts: Mapping[str, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def artifact_parts(
    payloads: list[Mapping[str, bytes]] | None = None,
    *,
    compression: str = "gzip",
    name: str = "release-1",
    version: int = 3,
    sign: Callable[[bytes], bytes] | None = None,
    form: int = tarfile.USTAR_FORMAT,
) -> dict[str, bytes]:
    """The entries of an artifact in order; `sign` gives the raw signature of the manifest."""
    payloads = [{"image.bin": b"payload" * 500}] if payloads is None else payloads
    suffix = SUFFIXES[compression]
    info: dict[str, Any] = {
        "payloads": [{"type": "single-file"} for _ in payloads],
        "artifact_provides": {"artifact_name": name, "artifact_group": "group-1"},
        "artifact_depends": {"device_type": ["board-1", "board-2"]},
    }
    inner = {"header-info": json.dumps(info).encode(), "scripts/a": b"#!/bin/sh\n" * 40}
    for number in range(len(payloads)):
        types = {"type": "single-file", "artifact_provides": {"single-file.version": name}}
        inner[f"headers/{number:04}/type-info"] = json.dumps(types).encode()
    version_text = json.dumps({"format": "mender", "version": version}).encode()
    header = packed(tar_of(inner), compression)
    sums = {"version": version_text, f"header.tar{suffix}": header}
    for number, files in enumerate(payloads):
        sums.update({f"data/{number:04}/{file}": data for file, data in files.items()})
    manifest = "".join(f"{sha256(data)}  {file}\n" for file, data in sums.items()).encode()
    parts = {"version": version_text, "manifest": manifest}
    if sign is not None:
        parts["manifest.sig"] = base64.b64encode(sign(manifest))
    parts[f"header.tar{suffix}"] = header
    for number, files in enumerate(payloads):
        parts[f"data/{number:04}.tar{suffix}"] = packed(tar_of(files, form), compression)
    return parts


def artifact(*args: Any, **named: Any) -> bytes:
    return tar_of(artifact_parts(*args, **named))


def verify(
    data: bytes, verifier: ContentVerifier | None = None, steps: list[int] | None = None
) -> str | None:
    """Feeds all of `data`, in pieces of the sizes in `steps` as far as they go."""
    verifier = verifier or ContentVerifier(Attributes(len(data)))
    view = memoryview(data)
    for step in steps or []:
        verifier.feed(view[:step])
        view = view[step:]
    verifier.feed(view)
    return verifier.finish()


def is_right(data: bytes) -> bool:
    """By other means than ours: whether all that the manifest names is there and is right."""
    try:
        found: dict[str, str] = {}
        named: dict[str, str] = {}
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as outer:
            for entry in outer:
                content = outer.extractfile(entry)
                if content is None:
                    continue
                raw = content.read()
                if entry.name == "manifest":
                    lines = raw.decode().splitlines()
                    named = {line.split()[1]: line.split()[0].lower() for line in lines}
                elif entry.name.startswith("data/"):
                    number = entry.name[5:9]
                    found.update(_files(raw, entry.name.rpartition(".tar")[2], number))
                else:
                    found[entry.name] = sha256(raw)
    except Exception:
        return False
    return bool(named) and all(found.get(name) == digest for name, digest in named.items())


def _files(raw: bytes, suffix: str, number: str) -> dict[str, str]:
    match suffix:
        case ".gz":
            raw = gzip.decompress(raw)
        case ".xz":
            raw = lzma.decompress(raw)
        case ".zst":
            raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    found = {}
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar:
        for entry in tar:
            content = tar.extractfile(entry)
            if content is not None:
                found[f"data/{number}/{entry.name}"] = sha256(content.read())
    return found
