"""Tar archives read as they stream: bytes are pushed in, entries come out, nothing is kept.

Each entry's content goes to the sink that `begin` names for it, in slices of what was fed; entries
without a sink are skipped. ustar, pax and GNU long names are understood (Go's archive/tar writes
the first two), sparse files are not. Everything that cannot be a tar is `Malformed`. Pure: no I/O.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

BLOCK = 512
_LONGEST_EXTENSION = 64 * 1024
"""Bytes of a pax header or long name."""
_REGULAR = b"0\x007"
_HEADER_ONLY = b"123456"
"""Links, devices, directories, fifos: a size in their header means no content (as in Go)."""
_NO_CHECKSUM = b" " * 8


class Malformed(Exception):
    """The bytes are not what they claim to be; the text continues "the artifact's …"."""


class Sink(Protocol):
    def feed(self, data: memoryview, /) -> None:
        """The next bytes of the entry; must not be kept."""
        ...

    def end(self) -> None:
        """The entry is complete."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    size: int
    regular: bool


@dataclass(slots=True)
class _Extension:
    """Collects what describes the entry that follows: a pax header or a GNU long name."""

    kind: bytes
    data: bytearray

    def feed(self, data: memoryview, /) -> None:
        self.data += data

    def end(self) -> None:
        pass


class TarReader:
    """Push parser; `begin` is called at each entry and returns where its content goes."""

    def __init__(self, begin: Callable[[Entry], Sink | None]) -> None:
        self._begin = begin
        self._block = bytearray()
        self._sink: Sink | None = None
        self._left = 0
        self._padding = 0
        self._extension: _Extension | None = None
        self._name: str | None = None
        self._size: int | None = None
        self._over = False

    def feed(self, data: memoryview, /) -> None:
        """Takes the next bytes; raises Malformed, and what `begin` and the sinks raise."""
        while data:
            if self._left:
                part = data[: self._left]
                self._left -= len(part)
                if self._sink is not None:
                    self._sink.feed(part)
                if not self._left:
                    self._end_entry()
            elif self._padding:
                part = data[: self._padding]
                self._padding -= len(part)
            else:
                part = data[: BLOCK - len(self._block)]
                self._block += part
                if len(self._block) == BLOCK:
                    block = bytes(self._block)
                    self._block.clear()
                    self._take(block)
            data = data[len(part) :]

    def end(self) -> None:
        """No more bytes come; raises Malformed inside an entry or header.

        The two empty blocks that should end an archive may be missing, as for Go's reader.
        """
        if self._left or self._padding or self._block or self._extension is not None:
            raise Malformed("tar ends inside an entry")

    def _take(self, block: bytes) -> None:
        if not any(block):
            self._over = True
            return
        if self._over:
            raise Malformed("tar goes on behind its end")
        kind = block[156:157]
        size = _number(block[124:136])
        check_header(block)
        if kind in (b"x", b"L", b"g", b"K"):
            if size > _LONGEST_EXTENSION:
                raise Malformed("tar has an oversized extended header")
            self._extension = _Extension(kind, bytearray())
            self._expect(size, self._extension)
            return
        if kind == b"S":
            raise Malformed("tar has a sparse file")
        name = self._name if self._name is not None else _name(block)
        if self._size is not None:
            size = self._size
        regular = kind in _REGULAR and not name.endswith("/")
        if kind in _HEADER_ONLY:
            size = 0
        self._name = self._size = None
        self._expect(size, self._begin(Entry(name, size, regular)))

    def _expect(self, size: int, sink: Sink | None) -> None:
        self._sink = sink
        self._left = size
        self._padding = -size % BLOCK
        if not size:
            self._end_entry()

    def _end_entry(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.end()
        extension, self._extension = self._extension, None
        if extension is None:
            return
        if extension.kind == b"L":
            self._name = _text(bytes(extension.data))
        elif extension.kind == b"x":
            self._apply(_records(bytes(extension.data)))

    def _apply(self, records: dict[str, str]) -> None:
        if any(key.startswith("GNU.sparse") for key in records):
            raise Malformed("tar has a sparse file")
        self._name = records.get("path", self._name)
        size = records.get("size")
        if size is not None:
            if not (size.isascii() and size.isdigit() and len(size) < 19):
                raise Malformed("tar has a malformed size")
            self._size = int(size)


def check_header(block: bytes) -> None:
    """Raises Malformed when a header block does not state its own sum."""
    if sum(block[:148]) + sum(_NO_CHECKSUM) + sum(block[156:]) != _number(block[148:156]):
        raise Malformed("tar has a header with a wrong checksum")


def looks_like_tar(block: bytes) -> bool:
    """Whether a first block has the mark of ustar, pax and GNU archives; it may be damaged."""
    return block[257:262] == b"ustar"


def _number(field: bytes) -> int:
    """Octal digits, or base 256 when the first bit is set; raises Malformed for others."""
    if field[:1] == b"\x80":
        number = int.from_bytes(field[1:], "big")
    else:
        digits = field.strip(b" \0")
        if digits.strip(b"01234567"):
            raise Malformed("tar has a malformed header")
        number = int(digits or b"0", 8)
    if number >= 1 << 62:
        raise Malformed("tar has an entry of impossible size")
    return number


def _name(block: bytes) -> str:
    name = _text(block[:100])
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _records(data: bytes) -> dict[str, str]:
    """The records of a pax header, each "length key=value\\n" (POSIX.1-2001 pax)."""
    found = {}
    while data:
        number, _, rest = data[:20].partition(b" ")
        if not (number.isdigit() and rest):
            raise Malformed("tar has a malformed extended header")
        length = int(number)
        record = data[len(number) + 1 : length]
        key, mark, value = record.removesuffix(b"\n").partition(b"=")
        if not mark or length > len(data) or not record.endswith(b"\n"):
            raise Malformed("tar has a malformed extended header")
        found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return found
