"""The documentation of the configuration is complete and its examples work."""

import json
import re
from operator import attrgetter
from pathlib import Path

import pytest

from mender_gateway.config.keys import KEYS, Key
from mender_gateway.config.load import examine
from mender_gateway.config.settings import Config, Endpoint, UpstreamServer
from tests.config.files import UPSTREAM, Write

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
DEFAULTS = Config(UpstreamServer(Endpoint("https", "example.com", 443)))
ROWS = dict(re.findall(r"^\| `([\w.]+)` \| (.*) \|$", TEXT, re.MULTILINE))


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_every_key_is_documented_with_its_variables_and_default(key: Key) -> None:
    environment, default, meaning = re.split(r" (?<!\\)\| ", ROWS[key.path], maxsplit=2)
    assert environment == (", ".join(f"`{name}`" for name in key.environment) or "–")
    value = attrgetter(key.target)(DEFAULTS)
    unset = value in (None, "", ()) or key.path == "UpstreamServer.URL"
    assert default == ("–" if unset else f"`{key.kind.show(value)}`")
    assert len(meaning) > 10


def test_no_key_is_documented_that_does_not_exist() -> None:
    known = {key.path for key in KEYS} | {name for key in KEYS for name in key.environment}
    assert set(ROWS) <= known


@pytest.mark.parametrize("text", re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL))
def test_every_example_loads(text: str, write: Write) -> None:
    found = examine(write(text), UPSTREAM)
    assert found.errors == []
    assert found.warnings == []
    assert json.loads(text)


def test_the_error_that_is_shown_is_the_one_that_is_logged() -> None:
    (error,) = examine(None, {**UPSTREAM, "HTTPS_LISTEN": "443x"}).errors
    assert error.replace('"', '\\"') in TEXT
