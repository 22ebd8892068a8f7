"""A scripted server: each connection runs a function of the test's own, in a thread.

The function gets a `Peer` and speaks bytes; what it does is exactly what happens on the wire.
"""

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TIMEOUT = 20.0


class Peer:
    """One end of a connection, blocking, with a deadline on every call; closes as a context."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(TIMEOUT)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read_some(self) -> bytes:
        """What is there or comes next; empty at the end."""
        if self.buffer:
            data, self.buffer = self.buffer, b""
            return data
        return self.sock.recv(65536)

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(f"ended before {mark!r}: {self.buffer!r}")
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(mark)
        return head + mark

    def read_head(self) -> bytes:
        """A message's head with its empty line; empty bytes at the end of the connection."""
        try:
            return self.read_until(b"\r\n\r\n")
        except (EOFError, ConnectionError):
            return b""

    def read_exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(f"ended {size - len(self.buffer)} bytes early")
            self.buffer += data
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def read_chunked(self) -> bytes:
        body = b""
        while True:
            size = int(self.read_until(b"\r\n"), 16)
            body += self.read_exactly(size)
            assert self.read_exactly(2) == b"\r\n"
            if not size:
                return body

    def read_body(self, head: bytes) -> bytes:
        """The body that belongs to `head`, by Content-Length or chunks."""
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            return self.read_chunked()
        if b"content-length: " in lower:
            length = lower.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]
            return self.read_exactly(int(length))
        return b""

    def answer(self) -> tuple[int, bytes, bytes]:
        """A whole answer: status, head, body."""
        head = self.read_until(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if status in (204, 304) or status < 200:
            return status, head, b""
        return status, head, self.read_body(head)

    def ended(self) -> bool:
        """Whether the other side has ended the connection (waits for it)."""
        try:
            return self.read_some() == b""
        except ConnectionError:
            return True

    def read_to_end(self) -> tuple[bytes, bool]:
        """All that comes until the end, and whether it ended cleanly: FIN, close_notify."""
        data = bytearray()
        try:
            while piece := self.read_some():
                data += piece
        except TimeoutError:
            raise
        except OSError:
            return bytes(data), False
        return bytes(data), True

    def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes, not even the end, for so long."""
        if self.buffer:
            return False
        self.sock.settimeout(seconds)
        try:
            self.buffer = self.sock.recv(65536)
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(TIMEOUT)
        return False

    def finish(self) -> None:
        """End our direction alone (FIN)."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def connect(
    port: int,
    context: ssl.SSLContext | None = None,
    server_name: str = "127.0.0.1",
    *,
    receive_buffer: int | None = None,
) -> Peer:
    """A connection to a loopback port; with `receive_buffer` bytes at most in our kernel."""
    sock = socket.socket()
    sock.settimeout(TIMEOUT)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        sock.connect(("127.0.0.1", port))
        if context is not None:
            sock = context.wrap_socket(
                sock, server_hostname=server_name, suppress_ragged_eofs=False
            )
    except BaseException:
        sock.close()
        raise
    return Peer(sock)


class ScriptedServer:
    def __init__(self, script: Callable[[Peer], None], context: ssl.SSLContext | None) -> None:
        self.script = script
        self.context = context
        self.accepted = 0
        self.failures: list[BaseException] = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self.listener.getsockname()[1]
        self.closing = False
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def url(self) -> str:
        scheme = "https" if self.context else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._sockets.add(sock)
            thread = threading.Thread(target=self._run, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, sock: socket.socket) -> None:
        try:
            sock.settimeout(TIMEOUT)
            if self.context is not None:
                self._sockets.discard(sock)
                sock = self.context.wrap_socket(
                    sock, server_side=True, do_handshake_on_connect=False
                )
                self._sockets.add(sock)
            with sock:
                if isinstance(sock, ssl.SSLSocket):
                    sock.do_handshake()
                self.script(Peer(sock))
        except (OSError, EOFError):
            pass
        except BaseException as error:
            self.failures.append(error)
        finally:
            self._sockets.discard(sock)

    def close(self) -> None:
        self.closing = True
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._accepting.join(TIMEOUT)
        for sock in list(self._sockets):
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # under TLS, too, by another thread
            except OSError:
                pass
        for thread in self._threads:
            thread.join(TIMEOUT)


@contextmanager
def scripted_server(
    script: Callable[[Peer], None], context: ssl.SSLContext | None = None
) -> Iterator[ScriptedServer]:
    """A server on an ephemeral port that runs `script` for each connection.

    Assertions that fail inside the script fail the test on leaving.
    """
    server = ScriptedServer(script, context)
    try:
        yield server
    finally:
        server.close()
    if server.failures:
        raise server.failures[0]


def requests(peer: Peer) -> Iterator[tuple[bytes, bytes]]:
    """The requests that arrive on a connection, one after the other: head and body."""
    while head := peer.read_head():
        yield head, peer.read_body(head)
