"""The incoming side of an HTTP connection: heads and bodies out of a stream's bytes.

Bytes that belong to the next message stay in `buffer`, unparsed: pipelined requests wait there,
bounded by what one read returns, until the message before them is answered.
"""

import asyncio

from mender_gateway.errors import HeadTooLarge
from mender_gateway.http.chunked import ChunkedReader, MalformedChunk, only_chunk
from mender_gateway.http.message import CHUNKED, UNTIL_CLOSE
from mender_gateway.net.stream import RECEIVE, Stream, Truncated

_FIRST_READ = 16 * 1024


class Ended(ConnectionError):
    """The peer ended the connection in the middle of a message."""


class Idle(TimeoutError):
    """The peer sent no byte of a next message in time."""


class Wire:
    """Reads one message after the other: `read_head`, `start_body`, `read_body` until it is empty.

    TimeoutError and OSError come from the stream; MalformedChunk from a chunked body.
    """

    __slots__ = ("_chunked", "_ended", "_left", "body_done", "buffer", "loop", "stream")

    def __init__(self, stream: Stream, loop: asyncio.AbstractEventLoop) -> None:
        self.stream = stream
        self.loop = loop
        self.buffer = b""
        self.body_done = True
        """No byte of the current message's body is outstanding."""
        self._left = 0
        self._chunked: ChunkedReader | None = None
        self._ended = False

    def head_at_once(self, limit: int) -> bytes | None:
        """The next head with its empty line, if all of it is here; None: `read_head` will say.

        Does not wait; raises OSError.
        """
        buffer = self.buffer
        if not buffer:
            try:
                buffer = self.stream.try_receive(_FIRST_READ)  # type: ignore[assignment]
            except Truncated:
                buffer = b""
            if not buffer:
                self._ended = buffer is not None
                return None
        end = buffer.find(b"\r\n\r\n") + 4
        if 4 <= end <= limit and buffer[:2] != b"\r\n":
            self.buffer = buffer[end:]
            return buffer[:end]
        self.buffer = buffer
        return None

    async def read_head(self, wait: float, progress: float, limit: int) -> bytes | None:
        """The next head with its empty line; None when the peer ended before its first byte.

        `wait` seconds for the first byte (Idle), `progress` seconds from there to the end; raises
        HeadTooLarge beyond `limit` bytes, Ended in the middle.
        """
        if self._ended:
            return None
        buffer = self.buffer
        if buffer[:2] == b"\r\n":
            buffer = buffer[2:]
        before = len(self.buffer) - len(buffer)
        while not buffer:
            try:
                buffer = await self.stream.receive(wait, _FIRST_READ)
            except Truncated:
                buffer = b""
            except TimeoutError:
                raise Idle from None
            except OSError as error:
                if before:
                    raise Ended(f"connection broke before a message head: {error}") from error
                raise
            if not buffer:
                if before:
                    raise Ended("connection ended before a message head")
                return None
            if not before and buffer[:2] == b"\r\n":
                # RFC 9112 2.2: one empty line before a message is to be ignored.
                before = 2
                buffer = buffer[2:]
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            deadline = self.loop.time() + progress
            gathered = bytearray(buffer)
            while end < 0:
                if len(gathered) > limit:
                    raise HeadTooLarge
                if not 65 <= gathered[0] <= 122:
                    break  # no method and no status line begins so: let the parser refuse it
                try:
                    more = await self.stream.receive(deadline - self.loop.time(), _FIRST_READ)
                except TimeoutError:
                    raise
                except OSError as error:
                    raise Ended(f"connection broke inside a message head: {error}") from error
                if not more:
                    raise Ended("connection ended inside a message head")
                start = max(0, len(gathered) - 3)
                gathered += more
                end = gathered.find(b"\r\n\r\n", start)
            buffer = bytes(gathered)
            if end < 0:
                end = len(buffer)
        end += 4
        if end > limit:
            raise HeadTooLarge
        self.buffer = buffer[end:]
        return buffer[:end]

    def start_body(self, framing: int) -> None:
        """Say how the body after the head just read is framed (`message.CHUNKED`, …)."""
        self._chunked = None
        self._left = framing
        self.body_done = framing == 0

    def take_whole(self) -> bytes | None:
        """What is left of a sized body, or a body in one chunk, if all of it is here; else None."""
        data, left = self.buffer, self._left
        if left == CHUNKED and self._chunked is None:
            whole = only_chunk(data)
            if whole is None:
                return None
            self.buffer = b""
        elif 0 <= left <= len(data):
            self.buffer = data[left:]
            whole = data[:left]
        else:
            return None
        self._left = 0
        self.body_done = True
        return whole

    async def read_body(self, timeout: float, size: int = RECEIVE) -> bytes:
        """The next bytes of the body; empty at its end. `timeout` seconds bound each silence."""
        while not self.body_done:
            data = self.buffer
            if data:
                self.buffer = b""
            else:
                try:
                    data = await self.stream.receive(timeout, size)
                except Truncated:
                    raise Ended("connection ended inside a message body") from None
                if not data:
                    if self._left == UNTIL_CLOSE:
                        self.body_done = True
                        return b""
                    raise Ended("connection ended inside a message body")
            if self._left >= 0:
                if len(data) >= self._left:
                    self.body_done = True
                    if len(data) > self._left:
                        self.buffer = data[self._left :]
                        data = data[: self._left]
                self._left -= len(data)
                return data
            if self._left == UNTIL_CLOSE:
                return data
            if self._chunked is None:
                self._chunked = ChunkedReader()
            piece = self._chunked.feed(data)
            if self._chunked.done:
                self.buffer = self._chunked.rest
                self._chunked = None
                self.body_done = True
            if piece:
                return piece
        return b""


__all__ = ["Ended", "Idle", "MalformedChunk", "Wire"]
