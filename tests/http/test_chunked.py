"""The chunked coding as a property: however its bytes are portioned, the body is the same."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.http.chunked import (
    LAST_CHUNK,
    ChunkedReader,
    MalformedChunk,
    frame,
    only_chunk,
)

EXTENSIONS = st.sampled_from([b"", b";a", b" ;a=b", b'\t;a="b c";d'])
TRAILERS = st.lists(st.sampled_from([b"X: y", b"X-Sum: 12", b"Content-Length: 5"]), max_size=3)


def read(portions: list[bytes]) -> tuple[bytes, bytes]:
    """Body and what follows it."""
    reader = ChunkedReader()
    body = b""
    for number, portion in enumerate(portions):
        body += reader.feed(portion)
        if reader.done:
            return body, reader.rest + b"".join(portions[number + 1 :])
    raise EOFError


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=300), max_size=6),
    extension=EXTENSIONS,
    trailers=TRAILERS,
    upper=st.booleans(),
    zeros=st.integers(0, 5),
    rest=st.binary(max_size=20),
    places=st.lists(st.integers(0, 5000), max_size=30),
)
def test_any_portions_give_the_same_body_and_the_same_rest(
    chunks: list[bytes],
    extension: bytes,
    trailers: list[bytes],
    upper: bool,
    zeros: int,
    rest: bytes,
    places: list[int],
) -> None:
    data = b""
    for chunk in chunks:
        size = (b"%X" if upper else b"%x") % len(chunk)
        data += b"0" * zeros + size + extension + b"\r\n" + chunk + b"\r\n"
    data += b"0" + extension + b"\r\n" + b"".join(line + b"\r\n" for line in trailers) + b"\r\n"
    body = b"".join(chunks)
    assert read([data + rest]) == (body, rest)
    assert read(cut(data + rest, places)) == (body, rest)
    assert read([bytes([byte]) for byte in data + rest]) == (body, rest)


@given(st.lists(st.binary(min_size=1, max_size=5000), max_size=8))
def test_what_is_framed_is_read_back(pieces: list[bytes]) -> None:
    data = b"".join(map(frame, pieces)) + LAST_CHUNK
    assert read([data]) == (b"".join(pieces), b"")


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=10))
def test_portions_never_decide_whether_bytes_are_a_chunked_body(
    data: bytes, places: list[int]
) -> None:
    def outcome(portions: list[bytes]) -> object:
        try:
            return read(portions)
        except EOFError:
            return "more is needed"
        except MalformedChunk:
            return "malformed"

    whole, portioned = outcome([data]), outcome(cut(data, places))
    # In small portions an unfinished bad line may be refused before its end has come.
    assert portioned == whole or {portioned, whole} == {"malformed", "more is needed"}


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b"1_0\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"1\t\r\n",
        "١\r\n".encode(),
        b"0" * 17 + b"\r\n",
        b"1\n",
        b"1\r1\n",
        b"1;\r;\r\n",
        b"1;\0\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n",
        b"1\r\na\r\r\n",
        b"1\r\na0\r\n",
        b"0\r\n\n",
        b"0\r\nX: y\n",
        b"1" + b";" * 2000,
        b"0\r\n" + b"X" * 2000,
        b"0\r\n" + (b"X: " + b"y" * 500 + b"\r\n") * 40,
    ],
)
@pytest.mark.parametrize("portion", [1, 3, 100_000])
def test_what_is_no_chunked_body_is_refused(data: bytes, portion: int) -> None:
    reader = ChunkedReader()
    with pytest.raises(MalformedChunk):
        for start in range(0, len(data), portion):
            reader.feed(data[start : start + portion])
    assert not reader.done


def test_a_line_that_never_ends_is_not_gathered() -> None:
    reader = ChunkedReader()
    with pytest.raises(MalformedChunk):
        for _ in range(2000):
            reader.feed(b"1")


def test_the_data_of_one_chunk_is_handed_on_as_it_comes() -> None:
    reader = ChunkedReader()
    assert reader.feed(b"ffffffffffffffff\r\nabc") == b"abc"
    assert reader.feed(b"def") == b"def"
    assert not reader.done


NEARLY_ONE_CHUNK = st.tuples(
    st.sampled_from([b"", b"0", b"000", b"0000000", b"0x", b"+", b"-", b"_", b" ", b"\r\n"]),
    st.sampled_from([b"%x", b"%X"]),
    st.integers(-1, 1),
    st.sampled_from([b"", b";a=b", b" ", b" ;a", b"\t", b"_", b"\r"]),
    st.sampled_from([b"\r\n", b"\n", b"\r\r\n"]),
    st.binary(max_size=300) | st.just(b"\r\n0\r\n\r\n") | st.just(b"5\r\nhello\r\n0\r\n\r\n"),
    st.sampled_from(
        [
            b"\r\n0\r\n\r\n",
            b"\r\n00\r\n\r\n",
            b"\r\n0;a\r\n\r\n",
            b"\r\n0\r\nX: y\r\n\r\n",
            b"\n0\n\n",
        ]
    ),
    st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"\r\n", b"\0"]),
)


@given(NEARLY_ONE_CHUNK)
def test_what_is_taken_for_the_only_chunk_is_one_in_any_portions(
    parts: tuple[bytes, bytes, int, bytes, bytes, bytes, bytes, bytes],
) -> None:
    zeros, form, lie, extension, line_end, body, ending, rest = parts
    size = form % max(0, len(body) + lie)
    data = zeros + size + extension + line_end + body + ending + rest
    for end in range(len(data) + 1):
        taken = only_chunk(data[:end])
        if taken is not None:
            for place in range(end):
                assert read([data[:place], data[place:]]) == (taken, data[end:])
            return
    usual = (zeros, lie, extension, line_end, ending, rest)
    assert usual != (b"", 0, b"", b"\r\n", b"\r\n" + LAST_CHUNK, b"") or not body
