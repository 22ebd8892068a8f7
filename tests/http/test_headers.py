"""Header fields on their way through: what passes, what does not, and what takes its place."""

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway import errors
from mender_gateway.http.headers import (
    END_TO_END,
    request_fields,
    response_fields,
    tokens,
    value,
    values,
)
from mender_gateway.http.message import type_of_fields

OURS: dict[str, Any] = {
    "host": b"mender.example.com",
    "forwarded_for": b"10.0.0.7",
    "proto": b"https",
    "forwarded_host": b"gateway.example.com:8443",
}
HOP_BY_HOP = [
    b"Connection",
    b"Keep-Alive",
    b"Proxy-Connection",
    b"Proxy-Authenticate",
    b"Proxy-Authorization",
    b"TE",
    b"Trailer",
    b"Transfer-Encoding",
    b"Upgrade",
]
SAYS_WHO_ASKS = [
    b"X-Forwarded-For",
    b"X-Forwarded-Proto",
    b"X-Forwarded-Host",
    b"X-Forwarded-Port",
    b"X-Forwarded-Tls-Client-Cert",
    b"Forwarded",
    b"X-Real-IP",
]
PLAIN = [
    b"Authorization",
    b"Content-Type",
    b"User-Agent",
    b"X-Men-Signature",
    b"Cookie",
    b"Accept",
    b"X-Custom",
    b"Warning",
]


def spelled(names: list[bytes]) -> st.SearchStrategy[bytes]:
    """One of `names` with any case, and sometimes with underscores."""

    def mix(name: bytes, upper: list[bool], underscore: bool) -> bytes:
        text = bytes(
            letter ^ 0x20 if flip and bytes([letter]).isalpha() else letter
            for letter, flip in zip(name, upper * len(name), strict=False)
        )
        return text.replace(b"-", b"_") if underscore else text

    flips = st.lists(st.booleans(), min_size=1, max_size=5)
    return st.builds(mix, st.sampled_from(names), flips, st.booleans())


contents = st.binary(max_size=12).map(
    lambda raw: bytes(32 + byte % 95 for byte in raw).strip(b" \t")
)
plain_fields = st.lists(st.tuples(st.sampled_from(PLAIN), contents), max_size=6)
hostile_fields = st.lists(st.tuples(spelled(HOP_BY_HOP[1:] + SAYS_WHO_ASKS), contents), max_size=6)


def folded(name: bytes) -> bytes:
    return name.lower().replace(b"_", b"-")


@given(plain=plain_fields, hostile=hostile_fields, data=st.data())
def test_what_is_not_of_this_hop_passes_in_order_and_case(
    plain: type_of_fields, hostile: type_of_fields, data: st.DataObject
) -> None:
    mixed = list(plain)
    for field in hostile:
        mixed.insert(data.draw(st.integers(0, len(mixed))), field)
    out = request_fields(mixed, **OURS)
    assert out[0] == (b"Host", b"mender.example.com")
    assert out[1 : 1 + len(plain)] == plain
    assert {name for name, _ in out[1 + len(plain) :]} == {
        b"X-Forwarded-For",
        b"X-Forwarded-Proto",
        b"X-Forwarded-Host",
        b"Forwarded",
        b"Via",
    }
    assert response_fields([f for f in mixed if folded(f[0]) not in _request_only()]) == plain


def _request_only() -> set[bytes]:
    return {folded(name) for name in SAYS_WHO_ASKS}


@given(hostile=hostile_fields)
def test_a_device_cannot_say_who_it_is_nor_where_the_server_is_reached(
    hostile: type_of_fields,
) -> None:
    out = request_fields([(b"HOST", b"evil.example.com"), *hostile], **OURS)
    assert values(out, b"host") == [b"mender.example.com"]
    assert values(out, b"x-forwarded-for") == [b"10.0.0.7"]
    assert values(out, b"x-forwarded-proto") == [b"https"]
    assert values(out, b"x-forwarded-host") == [b"gateway.example.com:8443"]
    assert values(out, b"forwarded") == [
        b'for=10.0.0.7;host="gateway.example.com:8443";proto=https'
    ]
    assert not values(out, b"x-real-ip")


@pytest.mark.parametrize("name", [*HOP_BY_HOP, b"Content-Length", b"Expect", b"HTTP2-Settings"])
def test_fields_of_this_hop_and_the_old_framing_stay_here(name: bytes) -> None:
    out = request_fields([(name, b"something")], **OURS)
    assert value(out, name.lower()) is None
    if name != b"Expect":
        assert response_fields([(name, b"something")]) == []


@pytest.mark.parametrize(
    "connection", [b"x-custom", b"close, X-CUSTOM", b",, x_custom ,", b"X-Custom"]
)
def test_a_field_named_in_connection_stays_here(connection: bytes) -> None:
    fields = [(b"X-Custom", b"1"), (b"Accept", b"*/*"), (b"Connection", connection)]
    assert value(request_fields(fields, **OURS), b"x-custom") is None
    assert response_fields(fields) == [(b"Accept", b"*/*")]


@pytest.mark.parametrize("connection", [b"close", b"keep-alive", b"Keep-Alive", b"Upgrade", b""])
def test_a_connection_that_names_no_field_takes_none_away(connection: bytes) -> None:
    fields = [(b"Connection", connection), (b"Accept", b"*/*"), (b"Keep", b"1")]
    assert request_fields(fields, **OURS)[1:3] == fields[1:]
    assert response_fields(fields) == fields[1:]


@given(st.lists(st.sampled_from(sorted(END_TO_END)), min_size=1))
def test_naming_a_field_for_all_in_connection_takes_nothing_away(named: list[bytes]) -> None:
    kept: type_of_fields = [
        (name, b"1") for name in sorted(END_TO_END) if name not in (b"host", b"content-length")
    ]
    hostile = (b"Connection", b", ".join([*named, b"x-forwarded-for", b"forwarded"]))
    out = request_fields([hostile, *kept], **OURS)
    assert out[0] == (b"Host", b"mender.example.com")
    assert out[1 : 1 + len(kept)] == kept
    assert value(out, b"x-forwarded-for") == b"10.0.0.7"
    assert response_fields([hostile, *kept]) == kept


def test_a_trusted_peer_is_believed_and_added_to_but_never_names_our_host() -> None:
    fields = [
        (b"X-Forwarded-For", b"192.0.2.1"),
        (b"x-forwarded-for", b"192.0.2.2"),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", b"evil.example.com"),
        (b"Forwarded", b"for=192.0.2.1"),
    ]
    out = request_fields(fields, peer_trusted=True, **OURS)
    assert values(out, b"x-forwarded-for") == [b"192.0.2.1, 192.0.2.2, 10.0.0.7"]
    assert values(out, b"x-forwarded-proto") == [b"http"]
    assert values(out, b"x-forwarded-host") == [b"gateway.example.com:8443"]
    ours = b'for=10.0.0.7;host="gateway.example.com:8443";proto=https'
    assert values(out, b"forwarded") == [b"for=192.0.2.1, " + ours]


def test_a_trusted_peer_that_says_nothing_counts_as_the_client() -> None:
    assert request_fields([], peer_trusted=True, **OURS) == request_fields([], **OURS)


def test_an_ipv6_address_is_bare_in_x_forwarded_for_and_quoted_in_forwarded() -> None:
    out = request_fields([], **{**OURS, "forwarded_for": b"2001:db8::7", "forwarded_host": b"gw"})
    assert value(out, b"x-forwarded-for") == b"2001:db8::7"
    assert value(out, b"forwarded") == b'for="[2001:db8::7]";host=gw;proto=https'


def test_via_names_the_version_that_the_request_came_in() -> None:
    earlier = (b"Via", b"1.1 proxy")
    assert request_fields([earlier], **OURS)[1] == earlier
    assert values(request_fields([earlier], **OURS), b"via") == [
        b"1.1 proxy",
        b"1.1 mender-gateway",
    ]
    assert value(request_fields([], version="1.0", **OURS), b"via") == b"1.0 mender-gateway"


def test_a_request_that_comes_back_again_and_again_is_a_loop() -> None:
    fields: type_of_fields = []
    with pytest.raises(errors.BadGateway, match="leads back"):
        for _ in range(100):
            fields = [field for field in request_fields(fields, **OURS) if field[0] != b"Host"]
    assert len(values(fields, b"via")) == 8


def test_an_answer_that_will_be_rewritten_is_asked_for_uncompressed() -> None:
    fields = [(b"accept-encoding", b"gzip"), (b"Connection", b"accept-encoding")]
    out = request_fields(fields, identity_coding=True, **OURS)
    assert values(out, b"accept-encoding") == [b"identity"]
    assert values(request_fields(fields, **OURS), b"accept-encoding") == [b"gzip"]


def test_a_tunnel_keeps_its_upgrade_and_nothing_else_of_this_hop() -> None:
    fields = [
        (b"Connection", b"keep-alive, Upgrade"),
        (b"Upgrade", b"websocket"),
        (b"Sec-WebSocket-Key", b"a2V5"),
        (b"Keep-Alive", b"5"),
    ]
    out = request_fields(fields, upgrade=b"websocket", **OURS)
    assert values(out, b"connection") == [b"Upgrade"]
    assert values(out, b"upgrade") == [b"websocket"]
    assert values(out, b"sec-websocket-key") == [b"a2V5"]
    assert values(out, b"keep-alive") == []
    assert response_fields(fields, upgrade=b"websocket") == [
        (b"Sec-WebSocket-Key", b"a2V5"),
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"websocket"),
    ]


def test_the_fields_given_are_never_changed() -> None:
    fields = [(b"Connection", b"x-a"), (b"X-A", b"1"), (b"Via", b"1.0 a")]
    before = list(fields)
    request_fields(fields, **OURS)
    response_fields(fields)
    assert fields == before


def test_values_come_in_order_and_whatever_their_case() -> None:
    fields = [(b"Set-Cookie", b"a"), (b"X", b"0"), (b"set-cookie", b"b")]
    assert values(fields, b"set-cookie") == [b"a", b"b"]
    assert value(fields, b"set-cookie") == b"a"
    assert value(fields, b"missing") is None


def test_tokens_are_split_over_fields_without_blanks_case_or_empty_members() -> None:
    assert tokens([b" A ,\tb,,", b"", b"C"]) == [b"a", b"b", b"c"]


def test_names_that_nobody_uses_take_no_memory() -> None:
    tracemalloc.start()
    try:
        for number in range(1500):
            name = b"X-%04d-" % number + b"a" * 20_000
            assert request_fields([(name, b"1")], **OURS)[1] == (name, b"1")
            assert response_fields([(name, b"1")]) == [(name, b"1")]
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
