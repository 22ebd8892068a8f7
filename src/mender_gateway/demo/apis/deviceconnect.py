"""Remote terminals: device and management WebSockets, and the sessions between them.

Frames are binary messages of msgpack ``{"hdr": {proto, typ, sid, props}, "body"}``. The server
gives each management connection a session id, writes it into what goes to the device, and leads
what comes from the device to the session it names.
"""

import asyncio
import queue
import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from mender_gateway.demo.apis.devauth import DeviceAuth
from mender_gateway.demo.apis.front import ApiError, Call, Reply, Routes
from mender_gateway.demo.apis.gotext import timestamp
from mender_gateway.demo.exchanges import ExchangeLog
from mender_gateway.demo.link import Tunnel
from mender_gateway.demo.websocket import Messages, accept_value

SHELL = 1
"""The terminal protocol's number in `Header.proto`."""


class Header(msgspec.Struct, omit_defaults=True):
    proto: int
    typ: str
    sid: str = ""
    props: dict[str, Any] | None = None


class Message(msgspec.Struct, omit_defaults=True):
    hdr: Header
    body: bytes | None = None


class Session:
    """One management end; `deliver` takes what the device sends, in order."""

    def __init__(self, device: str, deliver: Callable[[Message | None], None]) -> None:
        self.id = str(uuid.uuid4())
        self.device = device
        self.deliver = deliver
        """None says that the device went away."""


class DeviceConnect:
    """Connected devices and open sessions. Lives on one event loop."""

    def __init__(
        self,
        devauth: DeviceAuth,
        routes: Routes,
        log: ExchangeLog,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._devauth = devauth
        self._log = log
        self._clock = clock
        self.devices: dict[str, Messages] = {}
        self._since: dict[str, float] = {}
        self._cuts: dict[str, Callable[[], None]] = {}
        self._sessions: dict[str, Session] = {}
        devices = "/api/management/v1/deviceconnect/devices/{device}"
        routes.add("GET", "/api/devices/v1/deviceconnect/connect", self.connect)
        routes.add("GET", devices, self.get_device)
        routes.add("GET", devices + "/connect", self.manage)

    def open(self, device: str, deliver: Callable[[Message | None], None]) -> Session:
        """A new session with a connected device; `LookupError` when it is not connected."""
        if device not in self.devices:
            raise LookupError(device)
        session = Session(device, deliver)
        self._sessions[session.id] = session
        return session

    async def send(self, session: Session, message: Message) -> None:
        """Sends to the device in the session's name; `LookupError` when it went away."""
        message.hdr.sid = session.id
        if message.hdr.typ in ("new", "open"):
            message.hdr.props = {"user_id": "demo"} | (message.hdr.props or {})
        await self.devices[session.device].send(msgspec.msgpack.encode(message))

    async def end(self, session: Session) -> None:
        """Ends the session; the device is told to stop its shell."""
        if self._sessions.pop(session.id, None) and session.device in self.devices:
            await self.send(session, Message(Header(SHELL, "stop")))

    def cut(self, device: str) -> None:
        """Ends the device's connection without a word."""
        self._cuts[device]()

    async def get_device(self, call: Call) -> Reply:
        device = call.params["device"]
        if self._devauth.device(device) is None:
            raise ApiError(404, "device not found")
        since = timestamp(self._since.get(device, self._clock()))
        status = "connected" if device in self.devices else "disconnected"
        view = {"device_id": device, "status": status, "created_ts": since, "updated_ts": since}
        return Reply.json(view)

    async def connect(self, call: Call) -> Reply:
        device = call.device.id

        async def serve(tunnel: Tunnel) -> None:
            messages = Messages(tunnel.read, tunnel.write, masked=False)
            self.devices[device] = messages
            self._since[device] = self._clock()
            self._cuts[device] = tunnel.cut
            self._log.changed()
            try:
                while (raw := await messages.receive()) is not None:
                    self._from_device(raw)
            finally:
                if self.devices.get(device) is messages:
                    del self.devices[device]
                    self._forget_sessions(device)
                self._log.changed()

        return _switched(call, serve)

    async def manage(self, call: Call) -> Reply:
        device = call.params["device"]
        if device not in self.devices:
            raise ApiError(404, "device not connected")

        async def serve(tunnel: Tunnel) -> None:
            messages = Messages(tunnel.read, tunnel.write, masked=False)
            outgoing: asyncio.Queue[Message | None] = asyncio.Queue(maxsize=1024)
            session = self.open(device, outgoing.put_nowait)

            async def forward() -> None:
                while (message := await outgoing.get()) is not None:
                    await messages.send(msgspec.msgpack.encode(message))
                await messages.close()

            forwarding = asyncio.create_task(forward())
            try:
                while (raw := await messages.receive()) is not None:
                    await self.send(session, msgspec.msgpack.decode(raw, type=Message))
            except LookupError:
                pass
            finally:
                forwarding.cancel()
                await asyncio.gather(forwarding, return_exceptions=True)
                await self.end(session)

        return _switched(call, serve)

    def _from_device(self, raw: bytes) -> None:
        message = msgspec.msgpack.decode(raw, type=Message)
        session = self._sessions.get(message.hdr.sid)
        if session is not None:
            session.deliver(message)
            self._log.changed()

    def _forget_sessions(self, device: str) -> None:
        gone = [s for s in self._sessions.values() if s.device == device]
        for session in gone:
            del self._sessions[session.id]
            session.deliver(None)


def _switched(call: Call, serve: Callable[[Tunnel], Any]) -> Reply:
    """101 for a WebSocket handshake (RFC 6455 4.2.2), 400 for anything else."""
    request = call.request
    key = request.header("sec-websocket-key")
    if (request.header("upgrade") or "").lower() != "websocket" or not key:
        raise ApiError(400, "websocket: the client is not using the websocket protocol")
    headers = (
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_value(key)),
    )
    return Reply(101, headers=headers, tunnel=serve)


class Received:
    """What a session's device sent, for a thread that waits for it."""

    def __init__(self) -> None:
        self.messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()

    def next(self, timeout: float) -> Message:
        """Blocks; `TimeoutError`, or `ConnectionError` when the device went away."""
        try:
            message = self.messages.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"the device sent nothing within {timeout} s") from None
        if message is None:
            raise ConnectionError("the device went away")
        return message
