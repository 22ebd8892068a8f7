"""A management terminal for tests: synchronous, from a thread outside the upstream's loop."""

import asyncio
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

from mender_gateway.demo.apis.deviceconnect import (
    SHELL,
    DeviceConnect,
    Header,
    Message,
    Received,
)
from mender_gateway.demo.crossing import CALL_DEADLINE, call_on


class Terminal:
    """One session. As a context manager it ends the session, and with it the remote shell."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, deviceconnect: DeviceConnect, device: str
    ) -> None:
        """`LookupError` when the device is not connected."""
        self._loop, self._service = loop, deviceconnect
        self._received = Received()
        deliver = self._received.messages.put
        self._session = call_on(loop, lambda: deviceconnect.open(device, deliver))
        self.output = b""
        """All that the remote shell has printed so far."""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run(self._service.end(self._session))

    def send(
        self, typ: str, body: bytes = b"", proto: int = SHELL, props: dict[str, Any] | None = None
    ) -> None:
        """Sends one frame to the device."""
        message = Message(Header(proto, typ, props=props), body)
        self._run(self._service.send(self._session, message))

    def receive(self, timeout: float = 10.0) -> Message:
        """The next frame from the device; `TimeoutError`, `ConnectionError` when it left."""
        return self._received.next(timeout)

    def start_shell(self, height: int = 40, width: int = 80, timeout: float = 10.0) -> None:
        """Opens the remote shell and waits for the device to say so."""
        self.send("new", props={"terminal_height": height, "terminal_width": width})
        answer = self.receive(timeout)
        while answer.hdr.typ != "new":
            answer = self.receive(timeout)
        if (answer.hdr.props or {}).get("status") == 2:
            raise RuntimeError(f"the device refuses a shell: {(answer.body or b'').decode()}")

    def type(self, text: str) -> None:
        self.send("shell", text.encode())

    def read_until(self, wanted: bytes, timeout: float = 10.0) -> bytes:
        """Waits until the output contains `wanted`; returns all output so far."""
        deadline = time.monotonic() + timeout
        while wanted not in self.output:
            message = self.receive(max(0.0, deadline - time.monotonic()))
            if message.hdr.typ == "shell":
                self.output += message.body or b""
        return self.output

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CALL_DEADLINE)
