"""Multipart uploads (RFC 7578) in flat memory: the body goes to a file and is cut up there."""

import mmap
import re
from dataclasses import dataclass
from pathlib import Path

from mender_gateway.demo.wire import Request

_NAME = re.compile(rb'[; ]name="([^"]*)"', re.IGNORECASE)
_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)
_HEAD_LIMIT = 16 * 1024
_FIELD_LIMIT = 64 * 1024


class BadUpload(Exception):
    """The body is not the multipart form that was announced."""


@dataclass(frozen=True, slots=True)
class Form:
    """The short fields' texts, and the file that the field `artifact` was written to."""

    fields: dict[str, str]
    file: Path | None


async def receive(request: Request, spool: Path, target: Path, file_field: str) -> Form:
    """Reads the form; the part `file_field` ends up in `target`. Uses `spool` on the way."""
    match = _BOUNDARY.search(request.header("content-type") or "")
    if match is None:
        raise BadUpload("no multipart boundary in Content-Type")
    try:
        with spool.open("w+b") as out:
            async for chunk in request.chunks():
                out.write(chunk)
            out.flush()
            if not out.tell():
                raise BadUpload("the form is empty")
            with mmap.mmap(out.fileno(), 0, access=mmap.ACCESS_READ) as body:
                return _split(body, b"--" + match[1].encode(), target, file_field.encode())
    finally:
        spool.unlink(missing_ok=True)  # noqa: ASYNC240 (as quick as the writes above)


def _split(body: mmap.mmap, boundary: bytes, target: Path, file_field: bytes) -> Form:
    fields: dict[str, str] = {}
    file = None
    at = body.find(boundary)
    while at >= 0:
        at += len(boundary)
        if body[at : at + 2] == b"--":
            return Form(fields, file)
        start = body.find(b"\r\n\r\n", at, at + _HEAD_LIMIT)
        end = body.find(b"\r\n" + boundary, start + 4 if start >= 0 else at)
        if start < 0 or end < 0:
            break
        name = _NAME.search(body[at:start])
        if name is not None and name[1] == file_field:
            with target.open("wb") as out:
                for offset in range(start + 4, end, 1 << 20):
                    out.write(body[offset : min(offset + (1 << 20), end)])
            file = target
        elif name is not None:
            fields[name[1].decode()] = body[start + 4 : min(end, start + _FIELD_LIMIT)].decode()
        at = end + 2
    raise BadUpload("the multipart body ends in the middle")
