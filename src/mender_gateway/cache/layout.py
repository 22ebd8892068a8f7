"""Names and records in the cache directory: pure, the same for every process that shares it.

    <path>/v1/lock                       the directory lock: reservations and eviction
    <path>/v1/objects/<id>/{meta,data}   finished, durable, complete
    <path>/v1/partial/<id>/              one object on its way:
        fill.lock     exclusively locked by the one filler
        meta          attributes, name of the data file; present once the origin answered
        data.<tag>    the bytes; one file per version of the object
        prefix.<tag>  SHA-256 of the first 1, 2, 3 … chunks of the data file
        mark          how far the data file is readable; a fixed record, overwritten in place
        note          the newest origin link; opaque
        object/       the object being made ready for its rename into objects/
    <path>/v1/trash/                     renamed here to be deleted; anyone may delete it

A digest in `prefix` covers everything from byte 0, so one running hash serves the chunks and the
whole object alike. Directory and file names never come from outside: ids are checked here.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

import msgspec

from mender_gateway.cache.origin import Attributes

VERSION = "v1"
FORMAT = 1
CHUNK = 4 * 1024 * 1024
DIGEST = 32
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")
_MARK = struct.Struct("<4sB3xIQ8sI")
_MAGIC = b"MGM1"


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below the configured directory."""

    path: str

    @property
    def base(self) -> str:
        return f"{self.path}/{VERSION}"

    @property
    def lock(self) -> str:
        return f"{self.base}/lock"

    @property
    def objects(self) -> str:
        return f"{self.base}/objects"

    @property
    def partials(self) -> str:
        return f"{self.base}/partial"

    @property
    def trash(self) -> str:
        return f"{self.base}/trash"

    def object(self, object_id: str) -> str:
        return f"{self.objects}/{object_id}"

    def partial(self, object_id: str) -> str:
        return f"{self.partials}/{object_id}"


def checked_id(object_id: str) -> str:
    """The id itself; raises ValueError for one that cannot be a file name of ours."""
    if not _ID.fullmatch(object_id):
        raise ValueError(f"not an object id: {object_id!r}")
    return object_id


class Meta(msgspec.Struct, frozen=True, omit_defaults=True):
    """The `meta` file, JSON."""

    format: int
    length: int
    data: str
    """Name of the data file beside it."""
    chunk: int
    """Bytes per digest in the prefix file."""
    content_type: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    sha256: str | None = None
    """Of the whole; in finished objects only."""
    description: str | None = None
    """What the verifier said of the content."""

    @property
    def attributes(self) -> Attributes:
        return Attributes(self.length, self.content_type, self.etag, self.last_modified)

    @property
    def tag(self) -> bytes:
        """Names the data file in marks."""
        return bytes.fromhex(self.data.removeprefix("data."))

    @property
    def prefix(self) -> str:
        """Name of the file with the digests of the data file."""
        return "prefix." + self.data.removeprefix("data.")


def new_meta(attributes: Attributes, tag: bytes, chunk: int) -> Meta:
    return Meta(
        format=FORMAT,
        length=attributes.length,
        data=f"data.{tag.hex()}",
        chunk=chunk,
        content_type=attributes.content_type,
        etag=attributes.etag,
        last_modified=attributes.last_modified,
    )


def finished_meta(meta: Meta, sha256: str, description: str | None) -> Meta:
    return msgspec.structs.replace(meta, data="data", sha256=sha256, description=description)


def encode_meta(meta: Meta) -> bytes:
    return msgspec.json.encode(meta)


def decode_meta(raw: bytes) -> Meta | None:
    """The record, or None when it is torn, foreign or of another format."""
    try:
        meta = msgspec.json.decode(raw, type=Meta)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    named = meta.data == "data" or re.fullmatch(r"data\.[0-9a-f]{16}", meta.data)
    if meta.format != FORMAT or meta.length < 0 or meta.chunk <= 0 or not named:
        return None
    return meta


class MarkState(IntEnum):
    FILLING = 0
    COMPLETE = 1
    """All bytes are there and passed verification."""
    ABORTED = 2
    """The filler gave up or rejected the content; its readers were aborted."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a data file is readable, and a counter that shows that its filler lives."""

    state: MarkState
    beat: int
    position: int
    tag: bytes


MARK_SIZE = _MARK.size


def encode_mark(mark: Mark) -> bytes:
    head = _MARK.pack(_MAGIC, mark.state, mark.beat & 0xFFFFFFFF, mark.position, mark.tag, 0)[:-4]
    return head + zlib.crc32(head).to_bytes(4, "little")


def decode_mark(raw: bytes) -> Mark | None:
    """The record, or None when it is absent, torn or being written this instant."""
    if len(raw) != MARK_SIZE:
        return None
    magic, state, beat, position, tag, check = _MARK.unpack(raw)
    if magic != _MAGIC or check != zlib.crc32(raw[:-4]) or state > max(MarkState):
        return None
    return Mark(MarkState(state), beat, position, tag)


def encode_note(note: bytes) -> bytes:
    return zlib.crc32(note).to_bytes(4, "little") + note


def decode_note(raw: bytes) -> bytes | None:
    """The note, or None when a power cut tore it."""
    note = raw[4:]
    return note if len(raw) >= 4 and raw[:4] == zlib.crc32(note).to_bytes(4, "little") else None
