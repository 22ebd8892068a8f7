"""Verification as a property: whatever happens to the bytes, nothing wrong is accepted."""

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mender_gateway.artifacts.description import decode
from mender_gateway.artifacts.tar import BLOCK, Malformed, TarReader
from mender_gateway.artifacts.unpack import SUFFIXES, Unverifiable, unpacker
from mender_gateway.artifacts.verify import ContentVerifier
from mender_gateway.cache.errors import VerificationFailed
from mender_gateway.cache.origin import Attributes
from tests.artifacts.made import SUFFIXES as COMPRESSIONS
from tests.artifacts.made import artifact, is_right, verify

WHOLE = {
    compression: artifact(
        [{"a": bytes(range(256)) * 8, "b": b""}, {"c": b"c" * 700}], compression=compression
    )
    for compression in COMPRESSIONS
}
names = st.sampled_from(sorted(WHOLE))
relaxed = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def accepted(data: bytes, steps: list[int] | None = None) -> bool:
    """Whether it is accepted; any other exception than VerificationFailed fails the test."""
    try:
        verify(data, steps=steps)
    except VerificationFailed:
        return False
    return True


def test_the_independent_check_takes_the_whole_ones_for_right() -> None:
    assert all(is_right(data) for data in WHOLE.values())


@relaxed
@given(names, st.lists(st.integers(0, 3000), max_size=30))
def test_the_pieces_do_not_matter(name: str, steps: list[int]) -> None:
    data = WHOLE[name]
    assert verify(data, steps=steps) == verify(data)


@relaxed
@given(names, st.integers(0, 8 * 20_000), st.lists(st.integers(1, 3000), max_size=5))
def test_a_flipped_bit_never_makes_a_wrong_artifact_accepted(
    name: str, bit: int, steps: list[int]
) -> None:
    data = WHOLE[name]
    bit %= 8 * len(data)
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    if accepted(bytes(changed), steps):
        assert is_right(bytes(changed))


@relaxed
@given(names, st.integers(0, 20_000), st.binary(min_size=1, max_size=64))
def test_overwritten_bytes_never_make_a_wrong_artifact_accepted(
    name: str, place: int, new: bytes
) -> None:
    data = WHOLE[name]
    start = BLOCK + place % (len(data) - BLOCK)
    changed = data[:start] + new[: len(data) - start] + data[start + len(new) :]
    if accepted(changed):
        assert is_right(changed)


@relaxed
@given(names, st.integers(0, 20_000))
def test_a_cut_artifact_is_accepted_only_when_nothing_that_counts_is_missing(
    name: str, length: int
) -> None:
    data = WHOLE[name]
    cut = data[: length % len(data)]
    if accepted(cut) and len(cut) >= BLOCK:
        assert is_right(cut + bytes(len(data) - len(cut)))


@relaxed
@given(names, st.tuples(*[st.integers(0, 40)] * 3))
def test_moved_and_repeated_stretches_never_make_a_wrong_artifact_accepted(
    name: str, blocks: tuple[int, int, int]
) -> None:
    data = WHOLE[name]
    start, stop, to = (number * BLOCK for number in blocks)
    changed = data[:to] + data[min(start, stop) : max(start, stop)] + data[to:]
    if accepted(changed) and changed[:8] == b"version\0":
        assert is_right(changed)


@relaxed
@given(st.binary(max_size=4000), st.booleans())
def test_any_bytes_are_judged_without_a_crash(data: bytes, claims: bool) -> None:
    accepted(WHOLE["none"][:1024] + data if claims else data)


@relaxed
@given(st.binary(max_size=3000), st.lists(st.integers(1, 600), max_size=10))
def test_any_bytes_are_a_tar_or_malformed(data: bytes, steps: list[int]) -> None:
    reader = TarReader(lambda entry: None)
    view = memoryview(data)
    try:
        for step in [*steps, len(view)]:
            reader.feed(view[:step])
            view = view[step:]
        reader.end()
    except Malformed:
        pass


@relaxed
@given(st.sampled_from(SUFFIXES), st.binary(max_size=3000), st.integers(0, 12))
def test_any_bytes_unpack_or_are_malformed(suffix: str, data: bytes, magic: int) -> None:
    start = {"": b"", ".gz": b"\x1f\x8b\x08\0", ".xz": b"\xfd7zXZ\0", ".zst": b"\x28\xb5\x2f\xfd"}
    taken: list[int] = []
    try:
        unpack = unpacker(suffix, lambda piece: taken.append(len(piece)))
        unpack.feed(memoryview(start[suffix][:magic] + data))
        unpack.end()
    except (Malformed, Unverifiable):
        pass
    assert all(size <= 256 * 1024 or not suffix for size in taken)


def test_every_single_bit_of_the_first_blocks_counts() -> None:
    """The version entry and the head of the manifest: no flip there passes as other content."""
    data = WHOLE["gzip"]
    for bit in range(3 * BLOCK * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        if accepted(bytes(changed)):
            assert is_right(bytes(changed))


def test_a_verifier_does_not_keep_what_it_is_fed() -> None:
    data = artifact([{"a": os.urandom(300_000)}], compression="none")
    buffer = bytearray(len(data))
    verifier = ContentVerifier(Attributes(len(data)))
    for start in range(0, len(data), 1000):
        piece = data[start : start + 1000]
        buffer[: len(piece)] = piece
        with memoryview(buffer) as view, view[: len(piece)] as part:
            verifier.feed(part)
        buffer[: len(piece)] = bytes(len(piece))
    described = decode(verifier.finish())
    assert described is not None
    assert described.verified
