"""HTTP dates: one format out, three formats in."""

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.http.dates import format_date, parse_date


@given(st.integers(0, 4_102_444_800))
def test_a_date_is_written_as_the_standard_library_does_and_read_back(moment: int) -> None:
    text = format_date(moment)
    assert text.decode() == formatdate(moment, usegmt=True)
    assert parse_date(text) == moment


@pytest.mark.parametrize(
    "text",
    [
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov  6 08:49:37 1994",
    ],
)
def test_all_three_formats_are_read(text: bytes) -> None:
    assert parse_date(text) == 784111777.0


def test_a_leap_second_is_a_date() -> None:
    assert parse_date(b"Sat, 31 Dec 2016 23:59:60 GMT") == 1483228799.0


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"0",
        b"Sun, 06 Nov 1994 08:49:37",
        b"Sun, 06 Nov 1994 08:49:37 CET",
        b"Sun, 31 Feb 1994 08:49:37 GMT",
        b"Sun, 06 Foo 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 24:49:37 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
        b" Sun, 06 Nov 1994 08:49:37 GMT",
    ],
)
def test_what_is_no_date_is_none(text: bytes) -> None:
    assert parse_date(text) is None


@given(st.binary(max_size=40))
def test_no_bytes_make_the_parser_fail(text: bytes) -> None:
    moment = parse_date(text)
    assert moment is None or isinstance(moment, float)
