"""Texts are written as the real server writes them."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.demo.apis.gotext import from_json, parse_timestamp, timestamp, to_json


@given(st.floats(min_value=0, max_value=4e9, allow_nan=False), st.integers(0, 9))
def test_a_timestamp_says_the_moment_as_exactly_as_asked(seconds: float, digits: int) -> None:
    text = timestamp(seconds, digits)
    whole, _, fraction = text.removesuffix("Z").partition(".")
    assert len(fraction) <= digits
    assert not fraction.endswith("0")
    moment = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp()
    assert abs(moment + float(f"0.{fraction or 0}") - seconds) <= 0.51 * 10**-digits + 1e-6


@given(st.floats(min_value=0, max_value=4e9, allow_nan=False))
def test_a_timestamp_is_read_back(seconds: float) -> None:
    assert abs(parse_timestamp(timestamp(seconds, 6)).timestamp() - seconds) < 1e-5


def test_html_characters_are_escaped_in_json() -> None:
    assert to_json({"uri": "a&b<c>"}) == b'{"uri":"a\\u0026b\\u003cc\\u003e"}'


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"", "EOF"), (b"  ", "EOF"), (b"{", "unexpected EOF"), (b"nope", "invalid character 'n'")],
)
def test_decoding_errors_have_the_servers_words(body: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        from_json(body)
