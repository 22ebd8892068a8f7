"""Which objects go, and that nothing goes in vain: pure."""

from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.cache.eviction import (
    SLACK,
    Candidate,
    Filling,
    Limits,
    Stock,
    choose,
    default_floor,
    shortfall,
)

candidates = st.lists(
    st.builds(
        Candidate,
        kind=st.sampled_from(["object", "partial"]),
        object_id=st.uuids().map(str),
        size=st.integers(0, 10_000_000),
        last_used=st.floats(0, 1e9),
    ),
    max_size=20,
).map(tuple)
fillings = st.lists(
    st.builds(Filling, declared=st.integers(0, 10_000_000), written=st.integers(0, 10_000_000)),
    max_size=5,
).map(tuple)
stocks = st.builds(
    Stock, free=st.integers(0, 100_000_000), candidates=candidates, fillings=fillings
)
limits = st.builds(
    Limits,
    max_size=st.none() | st.integers(0, 50_000_000),
    min_free=st.integers(0, 10_000_000),
)


@given(candidates, st.integers(-10, 50_000_000), st.data())
def test_the_oldest_go_and_no_more_than_needed(
    found: tuple[Candidate, ...], needed: int, data: st.DataObject
) -> None:
    pinned = data.draw(st.sets(st.sampled_from(found))) if found else set()
    chosen = choose(found, needed, pinned)
    movable = [c for c in found if c not in pinned]
    if chosen is None:
        assert sum(c.size for c in movable) < needed
        return
    assert not set(chosen) & pinned
    assert sum(c.size for c in chosen) >= needed
    assert needed > 0 or not chosen
    if chosen:
        assert sum(c.size for c in chosen[:-1]) < needed
        kept = [c for c in movable if c not in chosen and c.size]
        assert all(c.last_used >= chosen[-1].last_used for c in kept)


@given(stocks, st.integers(0, 20_000_000), limits)
def test_after_eviction_every_promise_can_be_kept(
    stock: Stock, length: int, limits: Limits
) -> None:
    newcomer = Filling(length, 0)
    chosen = choose(stock.candidates, shortfall(stock, newcomer, limits))
    if chosen is None:
        return
    freed = sum(c.size for c in chosen)
    assert stock.free + freed - stock.reserved - length >= limits.min_free + SLACK
    if limits.max_size is not None:
        assert stock.held - freed + length <= limits.max_size


@given(stocks, limits)
def test_what_is_written_already_needs_no_room(stock: Stock, limits: Limits) -> None:
    assert shortfall(stock, Filling(5000, 8192), limits) == 0


def test_the_default_floor_is_two_percent_but_at_least_64_mib() -> None:
    assert default_floor(1024) == 64 * 1024 * 1024
    assert default_floor(100 * 1024**3) == 2 * 1024**3
