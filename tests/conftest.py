"""Shared by tests/python and tests/peer: quiet peers, and no test is skipped."""
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("LANCE_LOG", "error")
os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
sys.path.insert(0, str(Path(__file__).resolve().parent / "peer"))


def pytest_configure(config):
    config.addinivalue_line("markers", "full: the long matrix, run by `make check-all`")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """After set-up nothing may be skipped: PILUM_NO_SKIP=1 turns a skip into a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("PILUM_NO_SKIP") == "1" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which this run counts as failed: {report.longrepr}"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("PILUM_NO_SKIP") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped, which this run counts as failed: {report.longrepr}"
