"""A cloud in a thread, a small artifact, and a way to ask servers, for the tests of the demo."""

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from mender_gateway.demo.artifact import ArtifactFile
from mender_gateway.demo.cloud import Cloud, CloudSettings, running
from tests.demo.asking import Answered, Ask, make_artifact


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """An upstream that accepts every device, and its store; no fault of its own is tolerated."""
    with running(CloudSettings(accept_all=True)) as started:
        yield started
        assert not started.upstream.server.failures
        assert not started.storage.server.failures


@pytest.fixture
def artifact(tmp_path: Path) -> ArtifactFile:
    return make_artifact(tmp_path, "release-1", 300_000)


@pytest.fixture
def ask() -> Iterator[Ask]:
    """`ask(base, method, target, headers, body)`: one request; connections are kept."""
    connections: dict[str, http.client.HTTPConnection] = {}

    def request(
        base: str,
        method: str,
        target: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answered:
        if base not in connections:
            connections[base] = http.client.HTTPConnection(base.removeprefix("http://"), timeout=20)
        connection = connections[base]
        try:
            connection.request(method, target, body, headers or {})
            response = connection.getresponse()
            return Answered(response, response.read())
        except BaseException:
            connection.close()
            raise

    yield request
    for connection in connections.values():
        connection.close()
