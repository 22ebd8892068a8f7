"""Which bytes of an artifact a request gets."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.artifacts.ranges import (
    FULL,
    NOT_MODIFIED,
    PRECONDITION_FAILED,
    UNSATISFIABLE,
    Full,
    Partial,
    Unsatisfiable,
    choose,
    content_range,
    parse_content_range,
    parse_range,
    resumption,
    type_of_choice,
    unsatisfied_total,
)
from mender_gateway.errors import BadGateway, RangeNotSatisfiable
from mender_gateway.http.message import type_of_fields

ETAG = b'"5f9c1a40"'
MODIFIED = b"Mon, 23 Nov 2026 14:25:42 GMT"
EARLIER = b"Mon, 23 Nov 2026 14:25:41 GMT"
LATER = b"Mon, 23 Nov 2026 14:25:43 GMT"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"bytes=0-", (0, 1000)),
        (b"bytes=5-", (5, 1000)),
        (b"bytes=999-", (999, 1000)),
        (b"bytes=0-0", (0, 1)),
        (b"bytes=10-19", (10, 20)),
        (b"bytes=990-5000", (990, 1000)),
        (b"bytes=0-99999999999999999999999", (0, 1000)),
        (b"bytes=-1", (999, 1000)),
        (b"bytes=-1000", (0, 1000)),
        (b"bytes=-5000", (0, 1000)),
        (b"Bytes= 5-9", (5, 10)),
        (b"bytes=000000000000000000000005-9", (5, 10)),
        (None, None),
        (b"", None),
        (b"bytes", None),
        (b"bytes=", None),
        (b"bytes=-", None),
        (b"bytes=9-5", None),
        (b"bytes=a-b", None),
        (b"bytes=+5-9", None),
        (b"bytes=5", None),
        (b"bytes=0-5,10-15", None),
        (b"bytes=-5-10", None),
        (b"items=0-5", None),
        (b"bytes=0-5 ", None),
        ("bytes=٥-".encode(), None),
    ],
)
def test_a_single_range_is_read_and_anything_else_ignored(
    value: bytes | None, expected: tuple[int, int] | None
) -> None:
    assert parse_range(value, 1000) == expected


@pytest.mark.parametrize(
    "value", [b"bytes=1000-", b"bytes=1000-1001", b"bytes=-0", b"bytes=" + b"9" * 5000 + b"-"]
)
def test_a_range_behind_the_end_is_an_error_that_knows_the_length(value: bytes) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        parse_range(value, 1000)
    assert caught.value.length == 1000


@pytest.mark.parametrize("value", [b"bytes=0-", b"bytes=-5", b"bytes=5-9", b"bytes=-0"])
def test_an_empty_artifact_is_always_sent_whole(value: bytes) -> None:
    assert parse_range(value, 0) is None


@given(st.integers(0, 50), st.integers(0, 50) | st.none(), st.integers(1, 40))
def test_a_range_holds_exactly_the_bytes_that_were_asked_for_and_exist(
    first: int, last: int | None, length: int
) -> None:
    value = b"bytes=%d-%b" % (first, b"" if last is None else b"%d" % last)
    wanted = set(range(first, length if last is None else last + 1))
    existing = wanted & set(range(length))
    if last is not None and last < first:
        assert parse_range(value, length) is None
    elif not existing:
        with pytest.raises(RangeNotSatisfiable):
            parse_range(value, length)
    else:
        span = parse_range(value, length)
        assert span is not None
        assert set(range(*span)) == existing


@given(st.integers(0, 50), st.integers(1, 40))
def test_a_range_from_the_end_holds_the_last_bytes(suffix: int, length: int) -> None:
    data = bytes(range(length))
    if suffix == 0:
        with pytest.raises(RangeNotSatisfiable):
            parse_range(b"bytes=-0", length)
    else:
        span = parse_range(b"bytes=-%d" % suffix, length)
        assert span is not None
        assert data[slice(*span)] == data[-suffix:]


@given(st.binary(max_size=20))
def test_no_bytes_make_the_parser_fail(value: bytes) -> None:
    for text in (value, b"bytes=" + value):
        try:
            span = parse_range(text, 10)
        except RangeNotSatisfiable:
            continue
        assert span is None or 0 <= span[0] < span[1] <= 10


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], (None, False)),
        ([b"bytes=5-"], (5, True)),
        ([b"bytes=0-"], (0, True)),
        ([b"bytes=5-9"], (5, True)),
        ([b"bytes=9-5"], (None, False)),
        ([b"bytes=-5"], (None, True)),
        ([b"bytes=-"], (None, False)),
        ([b"bytes=5-,9-"], (None, False)),
        ([b"bytes=5-", b"bytes=9-"], (None, False)),
        ([b"nonsense"], (None, False)),
    ],
)
def test_a_resumption_is_known_without_the_length(
    values: list[bytes], expected: tuple[int | None, bool]
) -> None:
    assert resumption([(b"RANGE", value) for value in values]) == expected


@given(st.integers(0, 2**62), st.integers(1, 2**62), st.integers(0, 2**62))
def test_a_content_range_is_read_back_as_it_was_written(start: int, size: int, more: int) -> None:
    end, total = start + size, start + size + more
    if total < 10**19:
        assert parse_content_range(content_range(start, end, total)) == (start, end, total)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"bytes 0-9/*",
        b"bytes */10",
        b"bytes 0-10/10",
        b"bytes 5-4/10",
        b"bytes 0-9/9",
        b"bytes=0-9/10",
        b"bytes 0-9/10 ",
        b"bytes 0-9",
        b"items 0-9/10",
        b"bytes -9/10",
        b"bytes 0-9/" + b"1" * 30,
    ],
)
def test_a_content_range_that_cannot_be_relied_on_is_refused(value: bytes | None) -> None:
    with pytest.raises(BadGateway):
        parse_content_range(value)


def test_the_total_of_a_416_is_read() -> None:
    assert unsatisfied_total(b"bytes */1234") == 1234
    assert unsatisfied_total(b"bytes 0-1/1234") is None
    assert unsatisfied_total(None) is None


def answer(*fields: tuple[bytes, bytes], **other: Any) -> type_of_choice:
    served: dict[str, Any] = {
        "etag": ETAG,
        "last_modified": MODIFIED,
        "length": 1000,
        "method": b"GET",
    }
    return choose(list(fields), **{**served, **other})


RANGE = (b"Range", b"bytes=5-9")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], FULL),
        ([(b"Host", b"x")], FULL),
        ([RANGE], Partial(5, 10)),
        ([(b"RANGE", b"bytes=990-")], Partial(990, 1000)),
        ([(b"Range", b"bytes=1000-")], UNSATISFIABLE),
        ([(b"Range", b"bytes=1-2,4-5")], FULL),
        ([RANGE, RANGE], FULL),
        ([RANGE, (b"If-Range", ETAG)], Partial(5, 10)),
        ([RANGE, (b"If-Range", b'"other"')], FULL),
        ([RANGE, (b"If-Range", b"W/" + ETAG)], FULL),
        ([RANGE, (b"If-Range", MODIFIED)], Partial(5, 10)),
        ([RANGE, (b"If-Range", LATER)], FULL),
        ([RANGE, (b"If-Range", EARLIER)], FULL),
        ([RANGE, (b"If-Range", b"nonsense")], FULL),
        ([RANGE, (b"If-Range", ETAG), (b"If-Range", ETAG)], FULL),
        ([(b"Range", b"bytes=1000-"), (b"If-Range", b'"other"')], FULL),
        ([(b"If-None-Match", ETAG)], NOT_MODIFIED),
        ([(b"If-None-Match", b"W/" + ETAG)], NOT_MODIFIED),
        ([(b"If-None-Match", b'"a,b", ' + ETAG)], NOT_MODIFIED),
        ([(b"If-None-Match", b'"a"'), (b"If-None-Match", ETAG)], NOT_MODIFIED),
        ([(b"If-None-Match", b"*")], NOT_MODIFIED),
        ([(b"If-None-Match", b'"other"')], FULL),
        ([(b"If-None-Match", b"5f9c1a40")], FULL),
        ([(b"If-None-Match", b"")], FULL),
        ([(b"If-None-Match", b'"other"'), (b"If-Modified-Since", LATER)], FULL),
        ([(b"If-None-Match", ETAG), RANGE], NOT_MODIFIED),
        ([(b"If-Modified-Since", MODIFIED)], NOT_MODIFIED),
        ([(b"If-Modified-Since", LATER)], NOT_MODIFIED),
        ([(b"If-Modified-Since", EARLIER)], FULL),
        ([(b"If-Modified-Since", b"nonsense")], FULL),
        ([(b"If-Modified-Since", LATER), (b"If-Modified-Since", LATER)], FULL),
        ([(b"If-Match", ETAG), RANGE], Partial(5, 10)),
        ([(b"If-Match", b"*")], FULL),
        ([(b"If-Match", b'"other"')], PRECONDITION_FAILED),
        ([(b"If-Match", b"W/" + ETAG)], PRECONDITION_FAILED),
        ([(b"If-Unmodified-Since", MODIFIED)], FULL),
        ([(b"If-Unmodified-Since", EARLIER)], PRECONDITION_FAILED),
        ([(b"If-Match", ETAG), (b"If-Unmodified-Since", EARLIER)], FULL),
    ],
)
def test_conditions_are_judged_in_the_order_of_the_rfc(
    fields: type_of_fields, expected: type_of_choice
) -> None:
    assert answer(*fields) == expected
    assert type(answer(*fields)) is type(expected)


def test_head_knows_no_range_but_conditions() -> None:
    assert answer(RANGE, method=b"HEAD") == FULL
    assert answer((b"If-None-Match", ETAG), method=b"HEAD") == NOT_MODIFIED


def test_without_validators_only_a_star_matches_and_dates_decide_nothing() -> None:
    none: dict[str, Any] = {"etag": None, "last_modified": None}
    assert answer((b"If-None-Match", ETAG), **none) == FULL
    assert answer((b"If-None-Match", b"*"), **none) == NOT_MODIFIED
    assert answer((b"If-Modified-Since", LATER), **none) == FULL
    assert answer((b"If-Match", ETAG), **none) == PRECONDITION_FAILED
    assert answer((b"If-Unmodified-Since", EARLIER), **none) == FULL
    assert answer(RANGE, (b"If-Range", ETAG), **none) == FULL
    assert answer(RANGE, (b"If-Range", MODIFIED), **none) == FULL
    assert answer(RANGE, **none) == Partial(5, 10)


def test_a_weak_tag_of_the_artifact_never_vouches_for_a_range() -> None:
    weak = b"W/" + ETAG
    assert answer(RANGE, (b"If-Range", weak), etag=weak) == FULL
    assert answer((b"If-Match", weak), etag=weak) == PRECONDITION_FAILED
    assert answer((b"If-None-Match", ETAG), etag=weak) == NOT_MODIFIED


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"Range", b"If-Range", b"If-Match", b"If-None-Match", b"X"]),
            st.binary(max_size=12),
        )
    ),
    st.integers(0, 20),
)
def test_no_fields_lead_out_of_the_artifact(fields: type_of_fields, length: int) -> None:
    match answer(*fields, length=length):
        case Partial(start, end):
            assert 0 <= start < end <= length
        case Full() | Unsatisfiable():
            pass
        case other:
            assert other in (NOT_MODIFIED, PRECONDITION_FAILED)
