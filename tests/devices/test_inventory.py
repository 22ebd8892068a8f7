"""Inventory with the gateway's attributes added and not a byte of the device's own changed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway import errors
from mender_gateway.config.settings import InventoryAttribute
from mender_gateway.devices.inventory import SYSTEM_ID, inject

DEFAULTS = (
    InventoryAttribute("region", "eu"),
    InventoryAttribute("floor", 3),
    InventoryAttribute("load", 1.5),
    InventoryAttribute("tags", ["a", "b"]),
)
OURS = b'{"name":"mender_gateway_system_id","value":"plant-7"}'
REGION = b'{"name":"region","value":"eu"}'
REST = b'{"name":"floor","value":3},{"name":"load","value":1.5},{"name":"tags","value":["a","b"]}'
ALL = b",".join((OURS, REGION, REST))


def injected(body: bytes) -> bytes:
    return inject(body, "plant-7", DEFAULTS)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"[]", b"[" + ALL + b"]"),
        (b"[ \n]\n", b"[ \n" + ALL + b"]\n"),
        (b'[{"name":"a","value":"b"}]', b'[{"name":"a","value":"b"},' + ALL + b"]"),
        (b'[{"value":1.0,"name":"a"}]', b'[{"value":1.0,"name":"a"},' + ALL + b"]"),
        (
            b'[{"name":"a","value":12345678901234567890},{"name":"b","value":1e400}]',
            b'[{"name":"a","value":12345678901234567890},{"name":"b","value":1e400},' + ALL + b"]",
        ),
        (
            b' [\t{"name" : "a" , "value":[ 1 ], "description":"\\/","x":{}} ]\n',
            b' [\t{"name" : "a" , "value":[ 1 ], "description":"\\/","x":{}} ,' + ALL + b"]\n",
        ),
        (
            b'[{"name":"region","value":"us"}]',
            b'[{"name":"region","value":"us"},' + OURS + b"," + REST + b"]",
        ),
        (
            b'[{"name":"r\\u0065gion","value":"us"}]',
            b'[{"name":"r\\u0065gion","value":"us"},' + OURS + b"," + REST + b"]",
        ),
        (
            b'[{"Name":"region","VALUE":"us"}]',
            b'[{"Name":"region","VALUE":"us"},' + OURS + b"," + REST + b"]",
        ),
        (b'[{"name":"a","value":null}]', b'[{"name":"a","value":null},' + ALL + b"]"),
    ],
)
def test_ours_follow_what_the_device_says(before: bytes, after: bytes) -> None:
    assert injected(before) == after


CLAIMS = [
    b'{"name":"mender_gateway_system_id","value":"mine"}',
    b'{"value":["mine"],"name":"mender_gateway_system_id","description":"x"}',
    b'{"name":"mender_gateway_system_\\u0069d","value":"mine"}',
    b'{"n\\u0061me":"mender_gateway_system_id","value":"mine"}',
    b'{"NAME":"mender_gateway_system_id","Value":"mine"}',
    b'{"name":"harmless","Name":"mender_gateway_system_id","value":"mine"}',
    b'{"name":"mender_gateway_system_id","name":"harmless","value":"mine"}',
    b'{"name":"harmless","name":"mender_gateway_system_id","value":"mine"}',
    b'{"name":"mender_gateway_system_id","value":"\xff"}',
]
ENTRIES = [
    b'{"name":"a","value":1.0}',
    b'{"name":"region","value":"us"}',
    b'{ "value" : 12345678901234567890 , "name" : "b" }',
    b'{"name":"c","value":"mender_gateway_system_id"}',
    '{"name":"ü","value":"\\u00fc","value":["x"]}'.encode(),
    b'{"name":"d","value":"\xff"}',
]


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_to_the_system_is_replaced_however_it_is_written(claim: bytes) -> None:
    assert injected(b"[" + claim + b"]") == b"[" + ALL + b"]"
    a, b = ENTRIES[0], ENTRIES[2]
    kept = b"[" + a + b" , " + b + b"," + ALL + b"]"
    assert injected(b"[" + a + b" , " + b + b"," + claim + b"]") == kept
    assert injected(b"[" + a + b"," + claim + b" , " + b + b"]") == kept
    assert injected(b"[" + claim + b"," + a + b" , " + b + b"]") == kept


blanks = st.sampled_from([b"", b" ", b"\n\t", b"\r\n"])


@given(st.lists(st.tuples(st.sampled_from(CLAIMS) | st.sampled_from(ENTRIES), blanks, blanks)))
def test_claims_go_entries_stay_in_order_and_byte_for_byte(
    parts: list[tuple[bytes, bytes, bytes]],
) -> None:
    body = b"[" + b",".join(before + entry + after for entry, before, after in parts) + b"]"
    result = injected(body)
    kept = [entry for entry, _, _ in parts if entry in ENTRIES]
    at = 0
    for entry in kept:
        at = result.index(entry, at) + len(entry)
    said = json.loads(result.decode(errors="replace"))
    names = [attribute["name"] for attribute in said]
    own = [json.loads(entry.decode(errors="replace"))["name"] for entry in kept]
    added = ["region", "floor", "load", "tags"]
    assert names == [*own, SYSTEM_ID, *(name for name in added if name not in own)]
    assert said[len(own)]["value"] == "plant-7"


values = (
    st.text()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.lists(st.text())
)
attributes = st.fixed_dictionaries(
    {"name": st.sampled_from(["region", "tags", SYSTEM_ID]) | st.text(), "value": values},
    optional={"description": st.text()},
)


@given(
    st.lists(attributes),
    st.booleans(),
    st.sampled_from([None, 0, 2]),
    st.sampled_from([None, (",", ":")]),
)
def test_what_the_server_reads_is_what_both_said(
    said: list[dict[str, Any]], ensure_ascii: bool, indent: int | None, separators: Any
) -> None:
    body = json.dumps(said, ensure_ascii=ensure_ascii, indent=indent, separators=separators).encode(
        errors="surrogatepass"
    )
    own = [attribute for attribute in said if attribute["name"] != SYSTEM_ID]
    names = {attribute["name"] for attribute in own}
    assert json.loads(injected(body)) == [
        *own,
        {"name": SYSTEM_ID, "value": "plant-7"},
        *({"name": each.name, "value": each.value} for each in DEFAULTS if each.name not in names),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{}",
        b'{"name":"a","value":1}',
        b'"[]"',
        b"[1]",
        b"[null]",
        b"[[]]",
        b"[{}]",
        b'[{"name":"a"}]',
        b'[{"value":"a"}]',
        b'[{"name":1,"value":1}]',
        b'[{"name":null,"value":1}]',
        b'[{"name":"a","value":1},]',
        b'[{"name":"a","value":1}',
        b'[{"name":"a","value":1} {"name":"b","value":1}]',
        b'[{"name":"a","value":NaN}]',
        b'\xef\xbb\xbf[{"name":"a","value":1}]',
        b"<html>",
    ],
)
@pytest.mark.parametrize("claim", [b"", b'{"name":"mender_gateway_system_id","value":"x"},'])
def test_what_is_no_attribute_list_passes_unchanged(body: bytes, claim: bytes) -> None:
    changed = body.replace(b"[", b"[" + claim, 1)
    assert injected(changed) == changed


@pytest.mark.parametrize("claim", [b"", b'{"name":"mender_gateway_system_id","value":"x"},'])
def test_what_follows_the_list_stays_and_hides_nothing(claim: bytes) -> None:
    """Go's json.Decoder stops at the end of the first value."""
    body = b"[" + claim + b'{"name":"a","value":1}]] x'
    assert inject(body, "plant-7", ()) == b'[{"name":"a","value":1},' + OURS + b"]] x"


@pytest.mark.parametrize("body", [b"[" * 100_000, b'[{"name":"a","value":' + b"[" * 100_000])
def test_what_the_server_may_read_and_we_cannot_is_refused(body: bytes) -> None:
    with pytest.raises(errors.BadRequest, match="too deeply"):
        injected(body)


def test_a_default_never_overrides_the_system() -> None:
    defaults = (InventoryAttribute(SYSTEM_ID, "other"),)
    assert inject(b"[]", "plant-7", defaults) == b"[" + OURS + b"]"


def test_without_defaults_only_the_system_is_added() -> None:
    assert inject(b"[]", 'a"b', ()) == b'[{"name":"mender_gateway_system_id","value":"a\\"b"}]'


@given(st.binary(max_size=80))
def test_no_bytes_make_it_fail(body: bytes) -> None:
    if injected(body) != body:
        assert body.strip(b" \t\n\r").startswith(b"[")
