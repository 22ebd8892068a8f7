"""Compressed streams unpacked as they arrive, in pieces of bounded size.

Nothing is gathered: at most `_PIECE` bytes of output exist at a time, whatever the input, and the
decoders' own windows are bounded. What unpacks to far more than any image does is given up, so that
a few bytes cannot occupy a thread for minutes. Which compression it is the file's name says.
"""

import lzma
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from mender_gateway.artifacts.tar import Malformed

type_of_take = Callable[[memoryview], None]

_PIECE = 256 * 1024
_SLICE = 64 * 1024
"""Input given to a decoder at a time: what it leaves over is copied."""
_XZ_MEMORY = 128 * 1024 * 1024
"""xz's highest level, which mender-artifact uses, needs 65 MiB."""
_ZSTD_WINDOW = 128 * 1024 * 1024
"""The largest window that decoders accept unless told otherwise (RFC 8878 3.1.1.1.2 names 8 MB as
the least); Mender's own clients refuse more."""
_FREE = 256 << 20
_RATIO = 1100
"""Output is bounded by _FREE plus so many times the input; deflate cannot exceed 1032."""
SUFFIXES = ("", ".gz", ".xz", ".zst")


class Unverifiable(Exception):
    """The content may be right, but cannot be checked here."""


class Unpacker(Protocol):
    def feed(self, data: memoryview, /) -> None:
        """Unpacks and hands on; raises Malformed or Unverifiable, and what the taker raises."""
        ...

    def end(self) -> None:
        """No more input comes; raises Malformed when the stream is not complete."""
        ...


def unpacker(suffix: str, take: type_of_take) -> Unpacker:
    """For a file whose name ends in `suffix`, one of SUFFIXES; output goes to `take`."""
    match suffix:
        case ".gz":
            return _Decoding(_Gzip, take)
        case ".xz":
            return _Decoding(_Xz, take)
        case ".zst":
            return _Zstd(take)
    return _Plain(take)


class _Plain:
    def __init__(self, take: type_of_take) -> None:
        self.feed = take

    def end(self) -> None:
        pass


class _Metered:
    """Hands output on and counts it."""

    def __init__(self, take: type_of_take) -> None:
        self._take = take
        self._budget = _FREE

    def earned(self, size: int) -> None:
        self._budget += size * _RATIO

    def write(self, data: bytes) -> int:
        self._budget -= len(data)
        if self._budget < 0:
            raise Unverifiable(f"it unpacks to more than {_RATIO} times its size")
        self._take(memoryview(data))
        return len(data)


class _Decoder(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...

    @property
    def waiting(self) -> bool: ...

    @property
    def eof(self) -> bool: ...

    @property
    def surplus(self) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)

    def decompress(self, data: bytes, /) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, _PIECE)

    @property
    def waiting(self) -> bool:
        return bool(self._inner.unconsumed_tail)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def surplus(self) -> bytes:
        return self._inner.unused_data


class _Xz:
    def __init__(self) -> None:
        self._inner = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)

    def decompress(self, data: bytes, /) -> bytes:
        return self._inner.decompress(data, _PIECE)

    @property
    def waiting(self) -> bool:
        return not self._inner.needs_input

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def surplus(self) -> bytes:
        return self._inner.unused_data


class _Decoding:
    """Drives a decoder that bounds its output; streams may follow each other."""

    def __init__(self, make: Callable[[], _Decoder], take: type_of_take) -> None:
        self._make = make
        self._out = _Metered(take)
        self._decoder = make()
        self._begun = False
        """The decoder has been given input."""

    def feed(self, data: memoryview, /) -> None:
        self._out.earned(len(data))
        for start in range(0, len(data), _SLICE):
            self._decode(bytes(data[start : start + _SLICE]))

    def _decode(self, data: bytes) -> None:
        while data:
            if self._decoder.eof:
                data = data.lstrip(b"\0")  # stream padding, or the padding of a tape block
                if not data:
                    return
                self._decoder, self._begun = self._make(), False
            self._begun = True
            try:
                output = self._decoder.decompress(data)
                while True:
                    if output:
                        self._out.write(output)
                    if self._decoder.eof or not (self._decoder.waiting or len(output) == _PIECE):
                        break
                    output = self._decoder.decompress(b"")
                    if not output and not self._decoder.eof:
                        break
            except lzma.LZMAError as error:
                if "Memory usage limit" in str(error):
                    raise Unverifiable("unpacking it takes too much memory") from error
                raise Malformed(f"compressed data is broken: {error}") from error
            except zlib.error as error:
                raise Malformed(f"compressed data is broken: {error}") from error
            data = self._decoder.surplus if self._decoder.eof else b""

    def end(self) -> None:
        if not (self._decoder.eof and self._begun):
            raise Malformed("compressed data is cut off")


class _Zstd:
    """zstandard's writer bounds its output itself, and takes frame after frame."""

    def __init__(self, take: type_of_take) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise Unverifiable("the Python package zstandard is not installed") from error
        self._out = _Metered(take)
        self._error: type[Exception] = zstandard.ZstdError
        context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        taker: Any = self._out
        self._writer = context.stream_writer(taker, write_size=_PIECE, closefd=False)

    def feed(self, data: memoryview, /) -> None:
        self._out.earned(len(data))
        try:
            for start in range(0, len(data), _SLICE):
                self._writer.write(data[start : start + _SLICE])
        except self._error as error:
            raise Malformed(f"compressed data is broken: {error}") from error

    def end(self) -> None:
        """Cannot tell whether the last frame is complete; what is missing is missed elsewhere."""
