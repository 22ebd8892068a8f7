"""A scenario under uvloop, and caches on a directory of the test's own."""

from pathlib import Path

import pytest

from tests.support.cache_runs import Caches, Run, run_scenario


@pytest.fixture
def run() -> Run:
    return run_scenario


@pytest.fixture
def caches(tmp_path: Path) -> Caches:
    return Caches(tmp_path / "cache")
