"""What is read from the bytes of a handshake, by pure functions."""

import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.net.client_hello import LOOK, offered_session
from mender_gateway.net.presented import WatchedSocket, presented_chain


def hello(session: bytes) -> bytes:
    body = b"\x03\x03" + bytes(32) + bytes([len(session)]) + session + bytes(100)
    message = b"\x01" + len(body).to_bytes(3) + body
    return b"\x16\x03\x01" + len(message).to_bytes(2) + message


@given(st.binary(max_size=32))
def test_the_offered_session_is_read(session: bytes) -> None:
    assert offered_session(hello(session)[:LOOK]) == session


@given(st.binary(max_size=32), st.integers(0, LOOK))
def test_what_is_cut_short_is_not_guessed(session: bytes, length: int) -> None:
    found = offered_session(hello(session)[:length])
    assert found == (session if length >= 44 + len(session) else None)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_a_fault(data: bytes) -> None:
    offered_session(data)


def test_real_clients_offer_what_they_resume() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    for version, size in ((ssl.TLSVersion.TLSv1_2, 0), (ssl.TLSVersion.TLSv1_3, 32)):
        context.maximum_version = version
        outgoing = ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
        offered = offered_session(outgoing.read()[:LOOK])
        assert offered is not None
        assert len(offered) == size


def shown(data: bytes | None) -> list[bytes]:
    sock: Any = WatchedSocket.__new__(WatchedSocket)
    sock.presented = data
    return presented_chain(sock)


def vector(data: bytes) -> bytes:
    return len(data).to_bytes(3) + data


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.binary(max_size=20))
def test_certificates_are_read_from_both_forms_of_the_message(
    ders: list[bytes], extensions: bytes
) -> None:
    old = vector(b"".join(vector(der) for der in ders))
    assert shown(old) == ders
    tail = len(extensions).to_bytes(2) + extensions
    new = b"\0" + vector(b"".join(vector(der) + tail for der in ders))
    assert shown(new) == ders


@given(st.binary(max_size=400))
def test_a_mangled_message_is_no_fault(data: bytes) -> None:
    assert all(shown(data))
