"""The soak's schedule: no kind of fault is left to chance."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak.schedule import schedule

weights = st.dictionaries(st.text(min_size=1), st.floats(0.01, 100), min_size=1, max_size=20)


@given(weights, st.integers(0, 900), st.integers(0, 1000))
def test_every_kind_comes_however_rare_it_is(
    weights: dict[str, float], more: int, seed: int
) -> None:
    seconds = len(weights) + more
    plan = schedule(weights, seconds, random.Random(seed))
    assert len(plan) == seconds
    assert set(plan) == set(weights)
    assert plan == schedule(weights, seconds, random.Random(seed))


def test_kinds_come_about_as_often_as_their_weights_say() -> None:
    plan = schedule({"often": 9.0, "rarely": 1.0}, 1000, random.Random(1))
    assert 880 <= plan.count("often") <= 920


def test_too_short_a_run_is_refused() -> None:
    with pytest.raises(ValueError, match="3 kinds"):
        schedule({"a": 1.0, "b": 1.0, "c": 1.0}, 2, random.Random(1))
