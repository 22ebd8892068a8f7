"""Bytes to be served, wherever they are: in memory, in a file, or made on the fly.

A blob has a fixed size and is read at any offset; a `Slice` is the part of one that an answer
carries. Reads are short and come from memory or the page cache, so they may run on the loop.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


class Blob(Protocol):
    @property
    def size(self) -> int: ...

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset`; fewer only at the end."""
        ...


@dataclass(frozen=True, slots=True)
class BytesBlob:
    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, size: int) -> bytes:
        return self.content[offset : offset + size]


@dataclass(frozen=True, slots=True)
class FileBlob:
    """A file that nobody changes while it is served."""

    path: Path
    size: int

    @classmethod
    def of(cls, path: Path) -> "FileBlob":
        return cls(path, path.stat().st_size)

    def read(self, offset: int, size: int) -> bytes:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class GeneratedBlob:
    """`size` incompressible bytes that follow from `seed` alone; takes no memory."""

    size: int
    seed: int = 0

    def read(self, offset: int, size: int) -> bytes:
        size = max(0, min(size, self.size - offset))
        block, skip = divmod(offset, 16)
        key = hashlib.sha256(b"demo payload %d" % self.seed).digest()
        stream = Cipher(algorithms.AES(key), modes.CTR(block.to_bytes(16, "big"))).encryptor()
        return stream.update(bytes(skip + size))[skip:]


@dataclass(frozen=True, slots=True)
class Slice:
    """`length` bytes of `blob` from `start`."""

    blob: Blob
    start: int
    length: int

    @classmethod
    def whole(cls, blob: Blob) -> "Slice":
        return cls(blob, 0, blob.size)

    def pieces(self, size: int) -> Iterator[bytes]:
        """The bytes in order, `size` at a time."""
        at, end = self.start, self.start + self.length
        while at < end:
            piece = self.blob.read(at, min(size, end - at))
            if not piece:
                raise EOFError(f"blob ends at {at}, {end - at} bytes before its slice does")
            yield piece
            at += len(piece)


def digest(blob: Blob, algorithm: str) -> str:
    """The blob's digest in hexadecimal; reads all of it."""
    state = hashlib.new(algorithm, usedforsecurity=False)
    for piece in Slice.whole(blob).pieces(1 << 20):
        state.update(piece)
    return state.hexdigest()
