"""The arithmetic of the benchmark suite: what a median, a ratio and a met target are."""

import io
import json
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks import chart, table
from benchmarks.figures import Check, Figure, Result, Series, check_name, ratio

_RATES = st.lists(st.floats(1.0, 1e6), min_size=1, max_size=9)


def _figure(name: str = "hit-plain, 8 connections") -> Figure:
    ours = Series("ours", (200.0, 100.0, 300.0))
    peers = (Series("nginx", (100.0, 100.0, 100.0)), Series("varnish", ()))
    return Figure(name, "MB per CPU-second", ours, peers)


def _result() -> Result:
    figure = _figure()
    name = check_name(figure, "nginx")
    checks = (Check(name, figure.ratio("nginx"), 1.0, dream=1.2), Check("idle", 38.5, 60.0, False))
    return Result("hit-plain", (figure,), checks, ("a note",))


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds() -> None:
    assert ratio((10.0, 90.0, 40.0), (10.0, 30.0, 20.0)) == 2.0


def test_a_disturbance_of_a_whole_round_leaves_the_ratio_alone() -> None:
    assert ratio((100.0, 50.0, 100.0), (50.0, 25.0, 50.0)) == 2.0


def test_unequal_numbers_of_rounds_are_compared_by_their_medians() -> None:
    assert ratio((10.0, 20.0, 30.0), (5.0,)) == 4.0


def test_a_server_that_did_not_finish_has_no_ratio() -> None:
    assert ratio((1.0,), ()) is None
    assert _figure().ratios == {"nginx": 2.0, "varnish": None}


@given(_RATES)
def test_every_server_is_as_fast_as_itself(values: list[float]) -> None:
    assert ratio(values, values) == pytest.approx(1.0)


@given(_RATES)
def test_the_spread_is_nothing_only_when_all_rounds_agree(values: list[float]) -> None:
    spread = Series("ours", tuple(values)).spread
    assert spread is not None
    assert (spread == 0) == (len(set(values)) == 1)


def test_an_unknown_peer_is_an_error_and_no_missing_ratio() -> None:
    with pytest.raises(KeyError, match="no peer caddy"):
        _figure().ratio("caddy")


@pytest.mark.parametrize(
    ("value", "bound", "at_least", "met"),
    [
        (1.7, 1.7, True, True),
        (1.69, 1.7, True, False),
        (60.0, 60.0, False, True),
        (60.1, 60.0, False, False),
        (None, 60.0, False, False),
        (None, 0.0, True, False),
    ],
)
def test_a_target_is_met_from_its_bound_on_and_never_without_a_value(
    value: float | None, bound: float, at_least: bool, met: bool
) -> None:
    assert Check("x", value, bound, at_least).met is met


def test_one_missed_target_makes_the_case_a_miss() -> None:
    good, bad = Check("a", 2.0, 1.0), Check("b", 2.0, 1.0, at_least=False)
    assert Result("case", checks=(good,)).met
    assert not Result("case", checks=(good, bad)).met


def test_a_case_that_did_not_run_has_met_nothing() -> None:
    assert not Result("case", skipped="wrk is missing").met


def test_the_json_of_a_case_has_the_promised_members() -> None:
    found = json.loads(json.dumps(_result().as_json("abc")))
    assert found["case"] == "hit-plain"
    assert found["unit"] == "MB per CPU-second"
    assert found["ours"] == 200.0
    assert found["peers"] == {"nginx": 100.0, "varnish": None}
    assert found["ratios"]["nginx"] == 2.0
    assert found["targets"] == {"nginx, 8 connections": 1.0, "idle": 60.0}
    assert found["ratios"].keys() >= found["targets"].keys()
    assert found["met"] is True
    assert found["commit"] == "abc"


def test_the_table_shows_every_server_its_ratio_and_whether_targets_are_met() -> None:
    output = io.StringIO()
    console = Console(width=120, file=output)
    skipped = Result("api-mtls", skipped="no mutual TLS [yet]")
    table.show([_result(), skipped], "0123456789abcdef", console)
    text = output.getvalue()
    assert "0123456789ab" in text
    row = next(line for line in text.splitlines() if "nginx" in line)
    assert "100" in row
    assert "2.00" in row
    assert "≥ 1 ✓" in row
    assert "did not finish" in next(line for line in text.splitlines() if "varnish" in line)
    assert "≤ 60 ✓" in next(line for line in text.splitlines() if "idle" in line)
    assert "no mutual TLS [yet]" in text
    assert "hit-plain: a note" in text


def test_the_chart_is_one_wellformed_drawing_with_a_bar_for_each_server() -> None:
    slower = Figure("a < b", "s", Series("ours", (1.0,)), better="lower")
    text = chart.draw([_result(), Result("none"), Result("start", (slower,))])
    drawing = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    bars = drawing.findall(f".//{space}rect")
    assert [bar.get("class") for bar in bars] == ["ours", "peer", "peer", "ours"]
    assert "did not finish" in text
    assert "less is better" in text
    widths = [float(bar.get("width", "0")) for bar in bars]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.1)
