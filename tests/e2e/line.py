"""The line between devices and gateway: a TCP relay that a test can cut.

Bytes pass as they are, TLS included. Two threads copy for each connection; sockets are blocking.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PIECE = 64 * 1024


class Line:
    """Listens from the start; `target` is the port that connections lead to."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.target = 0
        self.cuts = 0
        """How often the line was cut."""
        self._cut_after: int | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def cut_after(self, size: int) -> None:
        """Cuts the next connection that has brought `size` bytes to a device; only that one."""
        with self._lock:
            self._cut_after = size

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _start(self, function: object, *args: object) -> None:
        thread = threading.Thread(target=function, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                device, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._relay, device)

    def _relay(self, device: socket.socket) -> None:
        with device:
            try:
                gateway = socket.create_connection(("127.0.0.1", self.target), 10)
            except OSError:
                return
            with gateway:
                gateway.settimeout(None)
                with self._lock:
                    self._open |= {device, gateway}
                upwards = threading.Thread(target=self._copy, args=(device, gateway), daemon=True)
                upwards.start()
                self._copy(gateway, device, limited=True)
                upwards.join()
                with self._lock:
                    self._open -= {device, gateway}

    def _copy(self, source: socket.socket, sink: socket.socket, limited: bool = False) -> None:
        """Until one side ends; then both do."""
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                sink.sendall(data)
                passed += len(data)
                if limited and self._to_be_cut(passed):
                    break
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _to_be_cut(self, passed: int) -> bool:
        with self._lock:
            if self._cut_after is None or passed < self._cut_after:
                return False
            self._cut_after = None
            self.cuts += 1
            return True


@contextmanager
def device_line() -> Iterator[Line]:
    line = Line()
    try:
        yield line
    finally:
        line.close()
