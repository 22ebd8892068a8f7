"""The kinds of setting: how each is read from JSON, from the environment, and shown.

A `Kind` pairs the pure functions of `values` with the JSON types they take. Its functions raise
`ValueError` with a text that continues the sentence begun by key and value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard

from mender_gateway.config import values
from mender_gateway.config.settings import InventoryAttribute, type_of_value


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    """For the documentation and error messages: `duration`, `boolean`, …"""
    json: Callable[[Any], Any]
    text: Callable[[str], Any]
    show: Callable[[Any], str]
    """The value as a person would write it; never called with None."""
    blank_is_absent: bool = True
    """Whether an empty string in the file means the default, as Go's zero value does."""


def _string_kind(name: str, parse: Callable[[str], Any], show: Callable[[Any], str] = str) -> Kind:
    def from_json(value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"has the wrong type; write a string ({name})")
        return parse(value)

    return Kind(name, from_json, parse, show)


def _text(value: str) -> str:
    if not value.isprintable():
        raise ValueError("has control characters; write it without them")
    return value


def _path(value: str) -> str:
    if "\0" in value:
        raise ValueError("has a NUL byte; write a path")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("has the wrong type; write true or false, without quotes")
    return value


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _duration_kind(
    *,
    zero: bool = False,
    parse: Callable[[str], float] = values.parse_duration,
    show: Callable[[float], str] = values.format_duration,
) -> Kind:
    def positive(seconds: float) -> float:
        if seconds == 0 and not zero:
            raise ValueError('is zero; write a duration such as "30s"')
        return seconds

    def from_text(text: str) -> float:
        return positive(parse(text))

    def from_json(value: Any) -> float:
        number = _number(value)
        if number is not None:
            return from_text(f"{number:f}s" if isinstance(number, float) else f"{number}s")
        if not isinstance(value, str):
            raise ValueError('has the wrong type; write a duration such as "1h30m", or seconds')
        return from_text(value)

    return Kind("duration", from_json, from_text, show)


def _whole_kind(
    name: str, parse: Callable[[str], int], show: Callable[[int], str], *, least: int = 1
) -> Kind:
    def from_text(text: str) -> int:
        number = parse(text)
        if number < least:
            raise ValueError(f"is below {least}; write a larger number")
        return number

    def from_json(value: Any) -> int:
        if isinstance(value, str):
            return from_text(value)
        if _number(value) is None or value != value // 1:
            raise ValueError(f"has the wrong type; write a {name}")
        return from_text(f"{value:.0f}" if value >= 0 else "0")

    return Kind(name, from_json, from_text, show)


def _parse_count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise ValueError("is no number; write a whole number such as 1000")
    return int(text)


def _list_kind(
    name: str,
    parse: Callable[[str], str],
    split: Callable[[str], list[str]] = values.split_list,
) -> Kind:
    def from_list(entries: list[str]) -> tuple[str, ...]:
        parsed: dict[str, None] = {}
        for entry in entries:
            try:
                parsed[parse(entry)] = None
            except ValueError as error:
                shown = values.printable(f'"{values.mask_url(entry)}"')
                raise ValueError(f"has the entry {shown}, which {error}") from None
        return tuple(parsed)

    def from_json(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise ValueError(f'has the wrong type; write a list of strings: ["{name}", …]')
        return from_list(value)

    def from_text(text: str) -> tuple[str, ...]:
        return from_list(split(text))

    return Kind(f"list of {name}s", from_json, from_text, ", ".join, blank_is_absent=False)


def _attribute(position: int, entry: object) -> InventoryAttribute:
    members = {key.lower(): item for key, item in entry.items()} if isinstance(entry, dict) else {}
    name, value = members.get("name"), members.get("value")
    if not isinstance(name, str) or not name:
        raise ValueError(f'has no "Name" in entry {position}; write {{"Name": "…", "Value": "…"}}')
    if not _is_inventory_value(value):
        raise ValueError(
            f'has no usable "Value" in entry {position}; write a string, a number, or a list of '
            "only strings or only numbers"
        )
    return InventoryAttribute(name, value)


def _is_inventory_value(value: object) -> TypeGuard[type_of_value]:
    if isinstance(value, list):
        texts = all(isinstance(item, str) for item in value)
        return texts or all(_number(item) is not None for item in value)
    return isinstance(value, str) or _number(value) is not None


def _inventory(value: Any) -> tuple[InventoryAttribute, ...]:
    if not isinstance(value, list):
        raise ValueError('has the wrong type; write a list: [{"Name": "…", "Value": "…"}, …]')
    attributes = (_attribute(position, entry) for position, entry in enumerate(value, 1))
    return tuple({attribute.name: attribute for attribute in attributes}.values())


def _no_text(text: str) -> Any:
    raise ValueError("cannot be set by the environment; write it into the file")


def _show_inventory(attributes: tuple[InventoryAttribute, ...]) -> str:
    return ", ".join(f"{attribute.name}={attribute.value}" for attribute in attributes)


def _show_boolean(value: bool) -> str:
    return "true" if value else "false"


def _identity_pairs(pairs: list[tuple[str, Any]]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for attribute, value in pairs:
        field = _CERTIFICATE_FIELDS.get(value.strip().lower()) if isinstance(value, str) else None
        if field is None or not attribute.strip():
            shown = values.printable(f'"{attribute}"')
            raise ValueError(
                f"names for {shown} no field of a certificate; write "
                '{"attribute": "CN"}, "serial" or "SAN"'
            )
        found[attribute.strip()] = field
    return tuple(found.items())


_CERTIFICATE_FIELDS = {"cn": "CN", "serial": "serial", "san": "SAN"}


def _identity(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise ValueError('has the wrong type; write an object: {"mac": "CN"}')
    return _identity_pairs(list(value.items()))


def _identity_text(text: str) -> tuple[tuple[str, str], ...]:
    return _identity_pairs(
        [(a, b) for a, _, b in (e.partition("=") for e in values.split_list(text))]
    )


def _show_identity(pairs: tuple[tuple[str, str], ...]) -> str:
    return ",".join(f"{attribute}={field}" for attribute, field in pairs)


BOOLEAN = Kind("boolean", _boolean, values.parse_boolean, _show_boolean, blank_is_absent=False)
TEXT = _string_kind("text", _text)
PATH = _string_kind("path", _path)
ADDRESS = _string_kind("listening address", values.parse_address)
ENDPOINT = _string_kind("URL", values.parse_endpoint)
PROXY = _string_kind("proxy URL", values.parse_proxy, values.mask_url)
TLS_VERSION = _string_kind("TLS version", values.parse_tls_version)
SECRET = _string_kind("base64", values.parse_secret, lambda _: "***")
DURATION = _duration_kind()
DURATION_OR_ZERO = _duration_kind(zero=True)
PERIOD_OR_ZERO = _duration_kind(zero=True, parse=values.parse_period, show=values.format_period)
SIZE = _whole_kind("size", values.parse_size, values.format_size)
SIZE_OR_ZERO = _whole_kind("size", values.parse_size, values.format_size, least=0)
RATE = _whole_kind("rate", values.parse_rate, values.format_rate)
COUNT = _whole_kind("number", _parse_count, str)
HOSTS = _list_kind("host", values.parse_whitelist_entry)
NETWORKS = _list_kind("network", values.parse_network)
FILES = _list_kind(
    "file", values.parse_file, lambda text: [part for part in text.split(",") if part.strip()]
)
IDENTITY = Kind(
    "identity attribute to certificate field",
    _identity,
    _identity_text,
    _show_identity,
    blank_is_absent=False,
)
INVENTORY = Kind(
    "list of name and value", _inventory, _no_text, _show_inventory, blank_is_absent=False
)
