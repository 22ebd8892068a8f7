"""Records in the cache directory: what a power cut or another process leaves torn is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.cache.layout import (
    Mark,
    MarkState,
    checked_id,
    decode_mark,
    decode_meta,
    decode_note,
    encode_mark,
    encode_meta,
    encode_note,
    new_meta,
)
from mender_gateway.cache.origin import Attributes

marks = st.builds(
    Mark,
    st.sampled_from(MarkState),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**63),
    st.binary(min_size=8, max_size=8),
)
META = new_meta(Attributes(5, "a/b", '"e"', None), bytes(8), 4096)


@given(marks)
def test_a_mark_says_again_what_was_written(mark: Mark) -> None:
    assert decode_mark(encode_mark(mark)) == mark


@given(marks, marks, st.integers(1, 31))
def test_a_mark_that_is_half_another_is_none_or_one_of_both(old: Mark, new: Mark, at: int) -> None:
    torn = encode_mark(new)[:at] + encode_mark(old)[at:]
    assert decode_mark(torn) in (None, old, new)


@given(marks, st.integers(0, 31), st.integers(1, 255))
def test_a_mark_with_any_byte_changed_is_none(mark: Mark, at: int, change: int) -> None:
    raw = bytearray(encode_mark(mark))
    raw[at] ^= change
    assert decode_mark(bytes(raw)) is None


@given(st.binary(max_size=200), st.integers(0, 203), st.integers(1, 255))
def test_a_torn_note_is_none(note: bytes, at: int, change: int) -> None:
    raw = encode_note(note)
    assert decode_note(raw) == note
    assert decode_note(raw[: at % len(raw)]) is None
    broken = bytearray(raw)
    broken[at % len(raw)] ^= change
    assert decode_note(bytes(broken)) is None


def test_metadata_that_is_torn_or_foreign_is_none() -> None:
    raw = encode_meta(META)
    assert decode_meta(raw) == META
    for end in range(len(raw)):
        assert decode_meta(raw[:end]) is None
    for change in ((b'"format":1', b'"format":2'), (b'"length":5', b'"length":-5')):
        assert change[0] in raw
        assert decode_meta(raw.replace(*change)) is None
    for name in (b"../../etc/passwd", b"data.x", b"mark"):
        assert decode_meta(raw.replace(b"data.0000000000000000", name)) is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a\0", "ä", "a" * 129])
def test_ids_are_names_of_ours(name: str) -> None:
    with pytest.raises(ValueError, match="not an object id"):
        checked_id(name)
