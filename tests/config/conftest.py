"""Fixtures of the configuration's tests."""

from pathlib import Path

import pytest

from tests.config.files import Write, writer


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)
