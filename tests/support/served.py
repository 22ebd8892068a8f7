"""Fixtures: a stage, a gateway before it for a whole module, and a path for each test.

A module that defines `CONFIG` has it laid over the gateway's configuration. A conftest imports the
fixtures that its folder uses.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import GatewayProcess, running_gateway
from tests.support.pki import ServerPki, make_server_pki
from tests.support.scripted import Peer, connect
from tests.support.stage import Stage, running_stage

_NUMBERS = itertools.count(1)


def overlaid(base: dict[str, Any], *layers: dict[str, Any]) -> dict[str, Any]:
    """`base` with each layer laid over it, section by section."""
    result = dict(base)
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            both = isinstance(value, dict) and isinstance(below, dict)
            result[key] = overlaid(below, value) if both else value  # type: ignore[arg-type]
    return result


def plain(upstream: str, *layers: dict[str, Any]) -> dict[str, Any]:
    """Configuration of a gateway with a plain listener before `upstream`."""
    base = {
        "HTTP": {"Enabled": True, "Listen": "127.0.0.1:0"},
        "UpstreamServer": {"URL": upstream},
    }
    return overlaid(base, *layers)


def with_https(pki: ServerPki) -> dict[str, Any]:
    return {
        "HTTPS": {
            "Enabled": True,
            "Listen": "127.0.0.1:0",
            "ServerCertificate": str(pki.certificate),
            "ServerKey": str(pki.key),
        }
    }


METRICS = {"Metrics": {"Enabled": True, "Listen": "127.0.0.1:0"}}


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> ServerPki:
    return make_server_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def _module_stage() -> Iterator[Stage]:
    with running_stage() as stage:
        yield stage


@pytest.fixture
def stage(_module_stage: Stage) -> Iterator[Stage]:
    """The upstream of the module's gateway; what fails on it fails the test."""
    yield _module_stage
    failures, _module_stage.server.failures = _module_stage.server.failures, []
    if failures:
        raise failures[0]


@pytest.fixture(scope="module")
def gateway(
    request: pytest.FixtureRequest,
    _module_stage: Stage,
    pki: ServerPki,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GatewayProcess]:
    """A gateway before the module's stage, plain, TLS and metrics listeners open."""
    layers = (with_https(pki), METRICS, getattr(request.module, "CONFIG", {}))
    config = plain(_module_stage.url, *layers)
    with running_gateway(tmp_path_factory.mktemp("gateway"), config) as gateway:
        yield gateway


@pytest.fixture
def path() -> str:
    """A path that no other test uses."""
    return f"/test/{next(_NUMBERS)}"


Dial = Callable[..., Peer]


@pytest.fixture
def dial(gateway: GatewayProcess, pki: ServerPki) -> Iterator[Dial]:
    """Connects to a listener of the module's gateway; the connections end with the test."""
    with ExitStack() as stack:

        def call(listener: str = "http", **options: Any) -> Peer:
            context = pki.client_context() if listener == "https" else None
            return stack.enter_context(connect(gateway.ports[listener], context, **options))

        yield call


Start = Callable[..., GatewayProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts gateways of the test's own: `start(upstream_url, *layers)`."""
    with ExitStack() as stack:
        numbers = itertools.count()

        def call(
            upstream: str,
            *layers: dict[str, Any],
            args: tuple[str, ...] = (),
            environment: dict[str, str] | None = None,
        ) -> GatewayProcess:
            folder = tmp_path / f"gateway{next(numbers)}"
            config = plain(upstream, *layers)
            return stack.enter_context(
                running_gateway(folder, config, *args, environment=environment)
            )

        yield call
