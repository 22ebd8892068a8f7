"""What the tests of the demo share: answers as a client sees them, and small artifacts."""

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mender_gateway.demo.artifact import ArtifactFile, write_artifact
from mender_gateway.demo.blobs import GeneratedBlob

DEVICE_TYPE = "demo-board"


def make_artifact(folder: Path, name: str, size: int, seed: int = 0) -> ArtifactFile:
    return write_artifact(
        folder / f"{name}.mender",
        name=name,
        device_types=[DEVICE_TYPE],
        files={"payload": GeneratedBlob(size, seed)},
    )


class Answered:
    """An answer as a client sees it."""

    def __init__(self, response: http.client.HTTPResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.getheaders()
        self.body = body

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


Ask = Callable[..., Answered]
"""`ask(base, method, target, headers=None, body=None)`."""
