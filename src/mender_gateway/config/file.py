"""Reading the configuration file: JSON into a flat mapping from key path to raw value.

Sections and keys match without case. What the table does not know becomes a warning with the
nearest known key; errors are a file that cannot be read, text that is no JSON object, and a section
of the wrong type. Null means absent, as in Go.
"""

import json
import os
import stat
from dataclasses import dataclass, field
from typing import Any, NoReturn

from mender_gateway.config.keys import KEYS
from mender_gateway.config.values import printable

DEFAULT_FILE = "/etc/mender/mender-gateway.conf"
_LARGEST_FILE = 1024 * 1024
_MOST_HINTS = 20
"""Unknown keys that are named one by one."""


@dataclass(slots=True)
class Found:
    """The raw values of the file by canonical key path, and what there is to say about it."""

    file: str | None = None
    values: dict[str, object] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def read_file(path: str | None) -> Found:
    """Read the file at `path`; None is the default file, which may be absent. Raises nothing."""
    name = DEFAULT_FILE if path is None else path
    found = Found(name)
    try:
        with open(name, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        if path is None:
            return Found()
        found.errors.append(f"--config: no file {printable(name)}; name one that exists")
        return found
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        found.errors.append(
            f"--config: cannot read {printable(name)}: {reason}; check its owner and mode"
        )
        return found
    if len(content) > _LARGEST_FILE:
        found.errors.append(
            f"--config: {printable(name)} is larger than 1 MiB; it is no configuration"
        )
        return found
    try:
        document = _decode(content)
    except ValueError as error:
        found.errors.append(f"--config: {printable(name)} is no valid JSON: {error}")
        return found
    if not isinstance(document, dict):
        found.errors.append(
            f"--config: {printable(name)} holds {type_of(document)}; write an object: {{…}}"
        )
        return found
    walk = _Walk(found)
    walk.section(document, "")
    if walk.unknown > _MOST_HINTS:
        more = walk.unknown - _MOST_HINTS
        found.warnings.append(f"--config: {more} more unknown keys in {printable(name)}, ignored")
    secrets = [key.path for key in KEYS if key.secret and key.path in found.values]
    if secrets and stat.S_ISREG(mode) and mode & stat.S_IROTH:
        found.warnings.append(
            f"{secrets[0]}: *** in {printable(name)} is readable by everybody; "
            f"run: chmod 600 {printable(name)}"
        )
    return found


def _decode(content: bytes) -> object:
    """The JSON document; raises ValueError saying line and column."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON value; write a number")

    try:
        return json.loads(content.decode("utf-8-sig"), parse_constant=refuse)
    except json.JSONDecodeError as error:
        text = f"line {error.lineno} column {error.colno}: {error.msg}"
        raise ValueError(f"{text}; correct the file there") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        text = f"line {line} column {column}: not UTF-8"
        raise ValueError(f"{text}; save the file in UTF-8") from None
    except RecursionError:
        raise ValueError("nested too deeply; correct the file") from None


class _Walk:
    """One pass over the document along the table of keys."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._leaves: dict[str, tuple[str, bool]] = {}
        self._sections: dict[str, str] = {}
        for key in KEYS:
            if not key.in_file:
                continue
            for path in (key.path, *key.also):
                self._leaves[path.lower()] = (key.path, path == key.path)
                names = path.split(".")
                for depth in range(1, len(names)):
                    section = ".".join(names[:depth])
                    self._sections[section.lower()] = section
        self._exact: set[str] = set()
        """Keys set at their own place, which goes before the other places they may have."""
        self.unknown = 0

    def section(self, members: dict[str, Any], path: str) -> None:
        for name, value in members.items():
            place = f"{path}.{name}" if path else name
            lower = place.lower()
            if isinstance(value, dict) and lower in self._sections:
                self.section(value, self._sections[lower])
            elif lower in self._leaves:
                self._leaf(place, *self._leaves[lower], value)
            elif lower in self._sections:
                self._wrong_section(self._sections[lower], value)
            else:
                self._unknown(place, path)

    def _leaf(self, place: str, canonical: str, own_place: bool, value: object) -> None:
        if value is None:
            return
        if canonical in self._found.values:
            self._found.warnings.append(
                f"{canonical}: set more than once in {printable(str(self._found.file))}; "
                "delete all but one"
            )
            if canonical in self._exact and not own_place:
                return
        if own_place:
            self._exact.add(canonical)
        self._found.values[canonical] = value

    def _wrong_section(self, section: str, value: object) -> None:
        if value is not None:
            self._found.errors.append(
                f"{section}: {type_of(value)} in {printable(str(self._found.file))} has the wrong "
                "type; write an object: {…}"
            )

    def _unknown(self, place: str, section: str) -> None:
        self.unknown += 1
        if self.unknown > _MOST_HINTS:
            return
        known = [*self._sections.values(), *(path for path, _ in self._leaves.values())]
        hint = nearest(place[:200], section, known)
        advice = f"; the nearest known key is {hint}" if hint else ""
        self._found.warnings.append(
            f"{printable(place)}: unknown key in {printable(str(self._found.file))}, ignored"
            f"{advice}"
        )


def nearest(place: str, section: str, known: list[str]) -> str | None:
    """The known path that `place` most probably means, None when nothing is near.

    A sibling with a similar name comes first, then the same name elsewhere, then a similar path.
    """
    import difflib  # needed for mistakes alone

    by_lower = {path.lower(): path for path in known}
    name = place.lower().rpartition(".")[2]
    parent = f"{section.lower()}." if section else ""
    siblings = {
        path.rpartition(".")[2]: path for path in by_lower if path.rpartition(".")[0] == parent[:-1]
    }
    if close := difflib.get_close_matches(name, siblings, 1, 0.6):
        return by_lower[siblings[close[0]]]
    elsewhere = {path.rpartition(".")[2]: path for path in by_lower}
    if close := difflib.get_close_matches(name, elsewhere, 1, 0.8):
        return by_lower[elsewhere[close[0]]]
    close = difflib.get_close_matches(place.lower(), by_lower, 1, 0.5)
    return by_lower[close[0]] if close else None


def type_of(value: object) -> str:
    """What JSON calls the value's type, with its article."""
    match value:
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case None:
            return "null"
        case _:
            return "an object"
