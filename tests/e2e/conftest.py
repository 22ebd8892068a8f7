"""Real clients are wanted: without them a test here skips with the reason, under CI it fails."""

import os

import pytest

from tests.support.device import unavailable


@pytest.fixture(scope="session", autouse=True)
def real_client() -> None:
    reason = unavailable()
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
