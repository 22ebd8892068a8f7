"""JSON text read value by value."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway import jsontext

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)
indents = st.sampled_from([None, 0, 2])


@given(st.lists(values, max_size=6), indents)
def test_elements_are_where_they_are_said_to_be(items: list[Any], indent: int | None) -> None:
    text = f" {json.dumps(items, indent=indent)}\n"
    begin, found = jsontext.elements(text)
    assert text[begin - 1] == "["
    assert [json.loads(text[each.start : each.end]) for each in found] == items


@given(st.dictionaries(st.sampled_from(["a", "A", "b", "c"]), values), indents)
def test_members_are_found_under_all_spellings_of_a_name(
    pairs: dict[str, Any], indent: int | None
) -> None:
    text = json.dumps(pairs, indent=indent)
    found = jsontext.members(text, (), frozenset({"a", "b"}))
    assert [json.loads(text[each.start : each.end]) for each in found] == [
        value for key, value in pairs.items() if key in "aAb"
    ]


def test_numbers_are_told_from_strings_and_kept_as_written() -> None:
    _, found = jsontext.elements('[1.0, "1.0", -0, 12345678901234567890, 1e400]')
    assert [type(each.value) for each in found] == [
        jsontext.Number,
        str,
        *[jsontext.Number] * 3,
    ]
    assert [each.value for each in found][3:] == ["12345678901234567890", "1e400"]


def test_a_number_of_a_million_digits_costs_nothing() -> None:
    _, found = jsontext.elements(f"[{'9' * 1_000_000}]")
    assert len(found[0].value) == 1_000_000


def test_repeated_members_of_an_object_are_all_there() -> None:
    _, found = jsontext.elements('[{"a":"x","a":"y"}]')
    assert found[0].value == (("a", "x"), ("a", "y"))


@given(st.text(max_size=20))
def test_what_python_does_not_take_for_json_is_none(text: str) -> None:
    for read in (jsontext.elements, lambda text: jsontext.members(text, (), frozenset())):
        try:
            read(text)
        except ValueError:
            continue
        json.loads(text)


@pytest.mark.parametrize(("key", "name"), [("URI", "uri"), ("\u017fource", "source"), ("ä", "ä")])
def test_names_are_folded_as_go_does(key: str, name: str) -> None:
    assert jsontext.folded(key) == name
