"""A Mender artifact in every form that a case needs: a file, in the store, and in each cache.

The store is the demo's, with presigned links; the gateway hands out its own link for one of those
and keeps the object after the first download.
"""

import http.client
import json
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.processes import Server
from benchmarks.site import HEADERS, NEXT, Site
from mender_gateway.demo.artifact import write_artifact
from mender_gateway.demo.blobs import GeneratedBlob
from mender_gateway.demo.cloud import Cloud, CloudSettings, running

MIB = 1 << 20
_KEPT_DEADLINE = 30.0
_WHOLE = 60.0


class NotCached(Exception):
    """The gateway went on asking storage for what it should hold."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An artifact: `link` is storage's, with host; `target` the same without."""

    path: Path
    size: int
    name: str
    link: str
    cloud: Cloud

    @property
    def authority(self) -> str:
        return self.cloud.storage.authority

    @property
    def target(self) -> str:
        parts = urlsplit(self.link)
        return f"{parts.path}?{parts.query}"


def stored(site: Site, size: int, uplink: float | None = None) -> Stored:
    """An artifact of about `size` bytes in a store behind an uplink of `uplink` bytes/s."""
    settings = CloudSettings(uplink=None if uplink is None else uplink * 8)
    cloud = site.stack.enter_context(running(settings))
    folder = site.folder / "files"
    folder.mkdir(exist_ok=True)
    written = write_artifact(
        folder / "artifact.mender",
        name="release-2",
        device_types=["demo-board"],
        files={"rootfs.ext4": GeneratedBlob(size)},
    )
    name = "0f8a1f60-4a3c-4a0e-9f0e-2d8a6c1f7b11/7d1a2c34-9b1e-4f56-8a3b-0c9d8e7f6a5b"
    cloud.storage.put(name, written.path)
    return Stored(written.path, written.size, name, cloud.storage.link(name), cloud)


def local_target(gateway: Server) -> str:
    """Path and query of the gateway's own link, from the instructions it hands to a device."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.ports["http"], timeout=_WHOLE)
    try:
        connection.request("POST", NEXT, b"{}", {**HEADERS, "Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise NotCached(f"no instructions: {answer.status} {body!r}")
    finally:
        connection.close()
    parts = urlsplit(json.loads(body)["artifact"]["source"]["uri"])
    return f"{parts.path}?{parts.query}"


def fill(server: Server, target: str, artifact: Stored) -> None:
    """Downloads from a cache until it asks storage no more; blocks. Raises NotCached."""
    usage = artifact.cloud.storage.usage
    deadline = time.monotonic() + _KEPT_DEADLINE
    while True:
        before = usage(artifact.name).gets
        received = download(server, target)
        if received != artifact.size:
            raise NotCached(f"{server.name}: {received} bytes instead of {artifact.size}")
        if usage(artifact.name).gets == before:
            return
        if time.monotonic() > deadline:
            raise NotCached(f"{server.name} asks storage again and again:\n{server.ending()}")


def download(server: Server, target: str) -> int:
    """The bytes of a whole download over the plain listener."""
    connection = http.client.HTTPConnection("127.0.0.1", server.ports["http"], timeout=_WHOLE)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        if answer.status != 200:
            raise NotCached(f"{server.name}: status {answer.status}: {answer.read(500)!r}")
        received = 0
        while piece := answer.read(MIB):
            received += len(piece)
        return received
    finally:
        connection.close()
