"""What holds for every test: properties are judged by their result, not by the machine's pace.

A test that this machine cannot run is skipped with the reason. Under CI that is a failure: the
machine there has what tests want (`.ci/run` installs it), or nobody would notice that it has not.
"""

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

from tests.support.device import unavailable

settings.register_profile("gateway", deadline=None)
settings.load_profile("gateway")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("device") and (reason := unavailable()):
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"not under CI: {reason}"
    return report
