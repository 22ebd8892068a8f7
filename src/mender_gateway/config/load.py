"""From the JSON file and the environment to a `Config`, or to one clear line on what is wrong.

The file is flattened along the table of keys, the environment laid on top, each value parsed by its
kind, and the whole checked for what one key alone cannot tell. `examine` collects everything there
is to say, for `check-config`; `load` raises the first error. Nothing named by a setting is opened
here, except the configuration file itself.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mender_gateway.config.checks import cautions, faults
from mender_gateway.config.file import DEFAULT_FILE, Found, read_file, type_of
from mender_gateway.config.keys import KEYS, Key
from mender_gateway.config.kinds import ENDPOINT, HOSTS, NETWORKS, PROXY
from mender_gateway.config.settings import Config, Endpoint, UpstreamServer
from mender_gateway.config.values import mask_url, printable
from mender_gateway.errors import ConfigError

Origin = Literal["file", "environment", "default"]
_UNSET_UPSTREAM = Endpoint("https", "upstream.invalid", 443)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A usable configuration, where each setting came from, and what deserves a warning."""

    config: Config
    origins: dict[str, Origin]
    """By key path, for every key of the table."""
    warnings: tuple[str, ...]
    path: str | None = None
    """What `load` was given, for loading again."""


@dataclass(slots=True)
class Examination:
    """What reading has found so far; `config` is whole only while `errors` is empty."""

    config: Config
    origins: dict[str, Origin]
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    unusable: set[str] = field(default_factory=set)
    """Key paths whose value could not be read; `config` has the default there."""


def load(path: str | None, environment: Mapping[str, str]) -> Loaded:
    """Read `path` (None: the default file, if there is one) and lay `environment` on top.

    Blocks for reading one small file. Raises `ConfigError` with one line that names key path and
    value, secrets masked, and says what to do.
    """
    found = examine(path, environment)
    if found.errors:
        raise ConfigError(found.errors[0])
    return Loaded(found.config, found.origins, tuple(found.warnings), path)


def examine(path: str | None, environment: Mapping[str, str]) -> Examination:
    """Like `load`, but collects every error instead of raising the first."""
    config = Config(UpstreamServer(_UNSET_UPSTREAM))
    found = Examination(config, {key.path: "default" for key in KEYS})
    content = read_file(path)
    found.warnings += content.warnings
    found.errors += content.errors
    for key in KEYS:
        _settle(found, key, content, environment)
    if found.errors:
        return found
    if found.origins["UpstreamServer.URL"] == "default":
        absent = "" if content.file or path else f" (there is no {DEFAULT_FILE})"
        found.errors.append(
            "UpstreamServer.URL: missing; write the URL of the Mender Server into the file or "
            f"into UPSTREAM_SERVER_URL{absent}"
        )
    found.errors += faults(found.config)
    found.warnings += _misspelt(environment)
    found.warnings += cautions(found.config)
    return found


def _settle(found: Examination, key: Key, content: Found, environment: Mapping[str, str]) -> None:
    """Put the key's value, if any is set, into the configuration."""
    name = next((name for name in key.environment if environment.get(name, "").strip()), None)
    raw: Any
    parse: Callable[[Any], Any]
    origin: Origin
    if name is not None:
        raw, parse, origin, where = environment[name].strip(), key.kind.text, "environment", name
    elif key.path in content.values:
        raw, parse, origin = content.values[key.path], key.kind.json, "file"
        where = printable(str(content.file))
        if raw == "" and key.kind.blank_is_absent:
            return
    else:
        return
    try:
        value = parse(raw)
    except ValueError as error:
        found.unusable.add(key.path)
        found.errors.append(f"{key.path}: {_describe(key, raw)} (in {where}) {error}")
        return
    found.config = _with(found.config, key.target, value)
    found.origins[key.path] = origin


def _misspelt(environment: Mapping[str, str]) -> list[str]:
    """A warning for each variable that is no setting but looks very much like one."""
    known = [name for key in KEYS for name in key.environment]
    prefixes = tuple({name[: name.index("_") + 1] for name in known} - {"NO_", "no_", "STATE_"})
    strangers = [name for name in environment if name.startswith(prefixes) and name not in known]
    if not strangers:
        return []
    import difflib  # needed for mistakes alone

    close = ((name, difflib.get_close_matches(name[:80], known, 1, 0.88)) for name in strangers)
    return [
        f"{printable(name)}: unknown environment variable, ignored; the nearest known is {to[0]}"
        for name, to in close
        if to
    ]


def _with(node: Any, target: str, value: object) -> Any:
    """A copy of the settings with one field, named by its dotted path, replaced."""
    name, _, rest = target.partition(".")
    if rest:
        value = _with(getattr(node, name), rest, value)
    return dataclasses.replace(node, **{name: value})


def _describe(key: Key, raw: object) -> str:
    """The raw value in an error message: masked, of one line, composites by their type only."""
    if key.secret:
        return "***"
    if key.kind in (HOSTS, NETWORKS):
        return "the list" if isinstance(raw, str) else type_of(raw)  # the entry in fault is named
    if isinstance(raw, str):
        masked = mask_url(raw) if key.kind in (ENDPOINT, PROXY) else raw
        return json.dumps(masked[:200], ensure_ascii=not masked.isprintable())
    return type_of(raw) if isinstance(raw, list | dict) else json.dumps(raw)
