"""Configuration files and the one line that is wrong with them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from mender_gateway.config.load import load
from mender_gateway.errors import ConfigError

MINIMAL: dict[str, Any] = {
    "HTTP": {"Enabled": True},
    "UpstreamServer": {"URL": "https://hosted.mender.io"},
}
UPSTREAM = {"HTTP_ENABLED": "true", "UPSTREAM_SERVER_URL": "https://hosted.mender.io"}
NOTHING: Mapping[str, str] = MappingProxyType({})
Write = Callable[[object], str]


def writer(folder: Path) -> Write:
    """Writes a document, or text, as the configuration file; its path."""
    path = folder / "mender-gateway.conf"

    def write_document(document: object) -> str:
        text = document if isinstance(document, str) else json.dumps(document)
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    return write_document


def fault(path: str | None, environment: Mapping[str, str] = NOTHING) -> str:
    """The one line that loading fails with."""
    with pytest.raises(ConfigError) as caught:
        load(path, environment)
    line = str(caught.value)
    assert line.isprintable()
    return line


def with_features(**features: object) -> dict[str, Any]:
    return {**MINIMAL, "Features": features}


def proxying(**keys: object) -> dict[str, Any]:
    return with_features(
        ArtifactsProxy={"Enabled": True, "GatewayURL": "https://gateway", **keys},
    )
