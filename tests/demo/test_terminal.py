"""Remote terminals: framing, and sessions between a management end and a device end."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mender_gateway.demo.apis.deviceconnect import SHELL, Header, Message
from mender_gateway.demo.client import Connection, Target
from mender_gateway.demo.cloud import Cloud
from mender_gateway.demo.device import DeviceSettings, SimulatedDevice
from mender_gateway.demo.websocket import (
    BINARY,
    CONTINUATION,
    Frame,
    FrameParser,
    Messages,
    accept_value,
    encoded,
    new_key,
)

MAC = {"mac": "02:00:00:00:00:01"}
CONNECT = "/api/devices/v1/deviceconnect/connect"
MANAGED = "/api/management/v1/deviceconnect/devices"
frames = st.builds(
    Frame, st.sampled_from([0, 1, 2, 8, 9, 10]), st.binary(max_size=300), st.booleans()
)


@settings(max_examples=200)
@given(st.lists(frames, max_size=5), st.booleans(), st.integers(1, 64))
def test_frames_survive_any_cutting_up(sent: list[Frame], masked: bool, piece: int) -> None:
    data = b"".join(encoded(frame, masked) for frame in sent)
    parser = FrameParser()
    got = [f for at in range(0, len(data), piece) for f in parser.feed(data[at : at + piece])]
    assert got == sent


@pytest.mark.parametrize("size", [125, 126, 65_535, 65_536])
def test_lengths_have_three_forms(size: int) -> None:
    frame = Frame(BINARY, bytes(size))
    assert FrameParser().feed(encoded(frame, masked=True)) == [frame]


def test_the_handshake_value_is_that_of_the_rfc() -> None:
    assert accept_value("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


async def upgraded(base: str, path: str, token: str) -> tuple[Connection, Messages]:
    """A WebSocket as a client opens it."""
    key, target = new_key(), Target.of(base + path)
    connection = await Connection.open(target, None)
    fields = [
        ("Authorization", f"Bearer {token}"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", "13"),
        ("Upgrade", "websocket"),
    ]
    await connection.send("GET", target, fields)
    head = await connection.head(10)
    assert head.status == 101
    assert head.header("sec-websocket-accept") == accept_value(key)
    return connection, Messages(connection.raw_read, connection.raw_write, masked=True)


async def echo_shell(messages: Messages, connection: Connection) -> None:
    """A device whose shell repeats its input in capitals, in fragments of 7 bytes."""
    while (raw := await messages.receive()) is not None:
        message = msgspec.msgpack.decode(raw, type=Message)
        match message.hdr.typ:
            case "new":
                assert (message.hdr.props or {})["user_id"]
                message.body = b"Shell started"
            case "shell":
                message.body = (message.body or b"").upper()
        data = msgspec.msgpack.encode(message)
        parts = [data[at : at + 7] for at in range(0, len(data), 7)]
        for number, part in enumerate(parts):
            opcode = CONTINUATION if number else BINARY
            frame = Frame(opcode, part, number == len(parts) - 1)
            await connection.raw_write(encoded(frame, masked=True))


@contextmanager
def connected_device(cloud: Cloud) -> Iterator[str]:
    """A device with a shell, in a thread; yields its token."""
    tokens: list[str] = []

    async def main() -> None:
        async with SimulatedDevice(DeviceSettings(cloud.upstream.base, MAC)) as device:
            await device.authenticate()
            assert device.token is not None
            tokens.append(device.token)
            connection, messages = await upgraded(cloud.upstream.base, CONNECT, device.token)
            async with connection:
                # The cut at the end is a reset where the server had not read everything.
                with suppress(ConnectionError):
                    await echo_shell(messages, connection)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        cloud.upstream.wait_for(lambda: cloud.upstream.connected(MAC))
        yield tokens[0]
    finally:
        device = cloud.upstream.device(MAC)
        if device is not None and cloud.upstream.connected(MAC):
            loop = cloud.upstream.loop
            loop.call_soon_threadsafe(cloud.upstream.deviceconnect.cut, device.id)
        thread.join(20)
        assert not thread.is_alive()


def test_a_terminal_reaches_the_devices_shell(cloud: Cloud) -> None:
    with connected_device(cloud), cloud.upstream.terminal(MAC) as terminal:
        terminal.start_shell()
        terminal.type("hello\n")
        assert terminal.read_until(b"HELLO\n") == b"HELLO\n"


def test_sessions_do_not_hear_each_other(cloud: Cloud) -> None:
    with connected_device(cloud):
        with cloud.upstream.terminal(MAC) as one, cloud.upstream.terminal(MAC) as two:
            one.start_shell()
            two.start_shell()
            one.type("one")
            two.type("two")
            assert two.read_until(b"TWO") == b"TWO"
            assert one.read_until(b"ONE") == b"ONE"


def test_a_device_that_leaves_ends_its_terminals(cloud: Cloud) -> None:
    with connected_device(cloud):
        terminal = cloud.upstream.terminal(MAC)
        terminal.start_shell()
        device = cloud.upstream.device(MAC)
        assert device is not None
        cloud.upstream.loop.call_soon_threadsafe(cloud.upstream.deviceconnect.cut, device.id)
        with pytest.raises(ConnectionError):
            terminal.receive(10)
        cloud.upstream.wait_for(lambda: not cloud.upstream.connected(MAC))


def test_a_device_that_is_not_connected_has_no_terminal(cloud: Cloud) -> None:
    with pytest.raises(LookupError):
        cloud.upstream.terminal(MAC)


def test_a_management_websocket_reaches_the_devices_shell(cloud: Cloud) -> None:
    async def main() -> None:
        device = cloud.upstream.device(MAC)
        assert device is not None
        path = f"{MANAGED}/{device.id}/connect"
        token = cloud.upstream.user_token()
        connection, messages = await upgraded(cloud.upstream.base, path, token)
        async with connection, asyncio.timeout(10):
            answers = []
            for typ, body in (("new", b""), ("shell", b"x" * 5000), ("shell", b"y")):
                await messages.ping(b"still there?")
                await messages.send(msgspec.msgpack.encode(Message(Header(SHELL, typ), body)))
                raw = await messages.receive()
                assert raw is not None
                answers.append(msgspec.msgpack.decode(raw, type=Message).body)
            assert answers == [b"Shell started", b"X" * 5000, b"Y"]
            assert messages.pongs == [b"still there?"] * 3

    with connected_device(cloud):
        asyncio.run(main())
