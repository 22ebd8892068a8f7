"""WebSocket frames (RFC 6455) for both ends: pure framing, and messages over a byte stream.

Only what the demo needs: binary messages, whole or fragmented; pings are answered; no extensions.
"""

import base64
import hashlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

MESSAGE_LIMIT = 16 * 1024 * 1024


class ProtocolError(Exception):
    """The other end does not speak WebSocket, or sent more than the limit."""


@dataclass(frozen=True, slots=True)
class Frame:
    opcode: int
    payload: bytes
    final: bool = True


def accept_value(key: str) -> str:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 4.2.2)."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def new_key() -> str:
    return base64.b64encode(os.urandom(16)).decode()


def encoded(frame: Frame, masked: bool) -> bytes:
    """A frame's bytes; clients mask, servers do not (RFC 6455 5.1)."""
    size = len(frame.payload)
    mask_bit = 0x80 if masked else 0
    head = bytes([(0x80 if frame.final else 0) | frame.opcode])
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 1 << 16:
        head += bytes([mask_bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([mask_bit | 127]) + size.to_bytes(8, "big")
    if not masked:
        return head + frame.payload
    key = os.urandom(4)
    return head + key + _masked(frame.payload, key)


def _masked(payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    pad = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")


@dataclass(slots=True)
class FrameParser:
    """Frames out of a byte stream, in whatever pieces it comes."""

    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes; `ProtocolError` for one that is too long."""
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, at = buffer[1] & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(buffer) < at + width:
                return None
            size, at = int.from_bytes(buffer[at : at + width], "big"), at + width
        if size > MESSAGE_LIMIT:
            raise ProtocolError(f"a frame of {size} bytes")
        masked = bool(buffer[1] & 0x80)
        start = at + 4 if masked else at
        if len(buffer) < start + size:
            return None
        payload = bytes(buffer[start : start + size])
        if masked:
            payload = _masked(payload, bytes(buffer[at:start]))
        frame = Frame(buffer[0] & 0x0F, payload, bool(buffer[0] & 0x80))
        del buffer[: start + size]
        return frame


class Messages:
    """Binary messages over a stream; the owner of the stream closes it.

    `masked` says that this end is the client. `receive` is called by one task at a time.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        write: Callable[[bytes], Awaitable[None]],
        masked: bool,
    ) -> None:
        self._read, self._write, self._is_client = read, write, masked
        self._parser = FrameParser()
        self._frames: list[Frame] = []
        self.pongs: list[bytes] = []
        """Payloads of the pongs received."""
        self.fragmented = 0
        """Messages that came in several frames."""

    async def send(self, message: bytes) -> None:
        await self._write(encoded(Frame(BINARY, message), self._is_client))

    async def ping(self, payload: bytes) -> None:
        await self._write(encoded(Frame(PING, payload), self._is_client))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        payload = code.to_bytes(2, "big") + reason.encode()
        await self._write(encoded(Frame(CLOSE, payload), self._is_client))

    async def receive(self) -> bytes | None:
        """The next whole message; None when the other end closed or went away."""
        parts: list[bytes] = []
        while (frame := await self._frame()) is not None:
            match frame.opcode:
                case 8:
                    await self._write(encoded(frame, self._is_client))
                    return None
                case 9:
                    await self._write(encoded(Frame(PONG, frame.payload), self._is_client))
                case 10:
                    self.pongs.append(frame.payload)
                case 0 | 1 | 2:
                    parts.append(frame.payload)
                    if frame.final:
                        self.fragmented += len(parts) > 1
                        return b"".join(parts)
                    if sum(map(len, parts)) > MESSAGE_LIMIT:
                        raise ProtocolError("a message without an end")
                case _:
                    raise ProtocolError(f"opcode {frame.opcode}")
        return None

    async def _frame(self) -> Frame | None:
        while not self._frames:
            data = await self._read()
            if not data:
                return None
            self._frames = self._parser.feed(data)
        return self._frames.pop(0)
