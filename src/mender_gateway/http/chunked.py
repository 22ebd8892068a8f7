"""The chunked transfer coding (RFC 9112 7.1), both ways, strictly.

Chunk extensions and trailers are read within bounds and dropped; framing is made anew on the way
out. Every line ends with CRLF; a bare CR or LF is refused, because two readers that disagree about
line ends can be made to see different messages.
"""

_HEX = frozenset(b"0123456789abcdefABCDEF")
_LONGEST_LINE = 1024
_LONGEST_TRAILER = 16 * 1024

LAST_CHUNK = b"0\r\n\r\n"
_ENDING = b"\r\n" + LAST_CHUNK


class MalformedChunk(ValueError):
    """The bytes are no chunked body."""


def frame(data: bytes) -> bytes:
    """One chunk with `data`, which is not empty: an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def only_chunk(data: bytes) -> bytes | None:
    """The body, if `data` is one plain chunk and the last one, as small bodies are; else None."""
    end = data.find(b"\r\n", 0, 10)
    if end <= 0 or not _HEX.issuperset(data[:end]):
        return None
    begin = end + 2
    end = begin + int(data[:end], 16)
    return data[begin:end] if end > begin and data[end:] == _ENDING else None


class ChunkedReader:
    """Takes a chunked body's bytes in any portions. `feed` until `done`; then `rest` is what
    followed the body.
    """

    __slots__ = ("_left", "_line", "_state", "_trailer", "done", "rest")

    def __init__(self) -> None:
        self._state = 0  # 0 size line, 1 data, 2 CRLF after data, 3 trailer
        self._left = 0
        self._line = b""
        self._trailer = 0
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """The body bytes in `data`; raises MalformedChunk."""
        if self._line:
            data = self._line + data
            self._line = b""
        pieces: list[bytes] = []
        position = 0
        size = len(data)
        while position < size:
            if self._state == 1:
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if self._left == 0:
                    self._state = 2
                continue
            end = data.find(b"\n", position)
            if end < 0:
                if size - position > _LONGEST_LINE:
                    raise MalformedChunk("line is too long")
                if self._state == 2 and data[position:] != b"\r":
                    raise MalformedChunk("chunk does not end with CRLF")
                self._line = data[position:]
                break
            line = data[position : end + 1]
            position = end + 1
            if not line.endswith(b"\r\n") or len(line) > _LONGEST_LINE:
                raise MalformedChunk("line does not end with CRLF or is too long")
            line = line[:-2]
            if b"\r" in line or b"\0" in line:
                raise MalformedChunk("line has a bare CR or NUL")
            if self._state == 0:
                digits = line.split(b";", 1)[0]
                if b";" in line:
                    digits = digits.rstrip(b" \t")
                if not 0 < len(digits) <= 16 or not _HEX.issuperset(digits):
                    raise MalformedChunk("chunk size is not a hexadecimal number")
                self._left = int(digits, 16)
                self._state = 1 if self._left else 3
            elif self._state == 2:
                if line:
                    raise MalformedChunk("chunk does not end with CRLF")
                self._state = 0
            else:
                self._trailer += len(line)
                if self._trailer > _LONGEST_TRAILER:
                    raise MalformedChunk("trailer is too long")
                if not line:
                    self.done = True
                    self.rest = data[position:]
                    break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
