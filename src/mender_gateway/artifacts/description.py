"""What a stored Mender artifact says of itself, kept as JSON beside its bytes.

Names and types come from header-info and type-info (Mender artifact format, versions 2 and 3). The
text is the gateway's own and goes into the cache's metadata; what is not understood is left out.
"""

import re
from typing import Any

import msgspec

_LOOKED_AT = 1024 * 1024
"""Bytes of header files that are looked at, together; others may be scripts of any size."""
_LONGEST_NAME = 256
_MOST = 64
"""Entries of each list. The metadata that holds the description must stay below 1 MiB."""
_TYPE_INFO = re.compile(r"headers/[0-9]{4}/type-info")


class Description(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of an artifact; `verified` says whether all checksums of its manifest were."""

    artifact_name: str = ""
    device_types: tuple[str, ...] = ()
    payload_types: tuple[str, ...] = ()
    provides: dict[str, str] = {}
    group: str | None = None
    version: int = 3
    verified: bool = False
    signed: bool = False
    """There is a signature; whether it was verified, `key` says."""
    key: str | None = None
    """SHA-256 of the public key (SubjectPublicKeyInfo, DER) that verified the signature."""


def encode(description: Description) -> str:
    return msgspec.json.encode(description).decode()


def decode(text: str | None) -> Description | None:
    """The description, None when there is none or it is not of this form."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Description)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None


class Header:
    """Gathers the files of header.tar that a description is made of."""

    def __init__(self) -> None:
        self._info: dict[str, Any] = {}
        self._types: list[dict[str, Any]] = []
        self._budget = _LOOKED_AT

    def wants(self, name: str, size: int) -> bool:
        if name != "header-info" and _TYPE_INFO.fullmatch(name) is None:
            return False
        if size > self._budget:
            return False
        self._budget -= size
        return True

    def take(self, name: str, content: bytes) -> None:
        """Takes a file that was wanted; one that is no JSON object is left out."""
        try:
            value = msgspec.json.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if not isinstance(value, dict):
            return
        if name == "header-info":
            self._info = value
        else:
            self._types.append(value)

    def describe(
        self, *, version: int, verified: bool, signed: bool, key: str | None
    ) -> Description:
        provides = _object(self._info.get("artifact_provides"))
        depends = _object(self._info.get("artifact_depends"))
        all_provides: dict[str, str] = {}
        for each in (provides, *(_object(t.get("artifact_provides")) for t in self._types)):
            for name, value in each.items():
                if isinstance(value, str) and len(all_provides) < _MOST:
                    all_provides[name[:_LONGEST_NAME]] = value[:_LONGEST_NAME]
        group = all_provides.get("artifact_group")
        named: Any = all_provides.get("artifact_name") or self._info.get("artifact_name")
        types = depends.get("device_type") or self._info.get("device_types_compatible")
        payloads = self._info.get("payloads") or self._info.get("updates")
        return Description(
            artifact_name=named[:_LONGEST_NAME] if isinstance(named, str) else "",
            device_types=_texts(types),
            payload_types=_texts([_object(p).get("type") for p in _list(payloads)]),
            provides=all_provides,
            group=group,
            version=version,
            verified=verified,
            signed=signed,
            key=key,
        )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else _list(value)
    return tuple(text[:_LONGEST_NAME] for text in values if isinstance(text, str))[:_MOST]
