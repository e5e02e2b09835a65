"""The checks of tests/gpu_checks.py, one row per check as soon as it has ended."""

from __future__ import annotations

import importlib.util
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.journal import FAILED, PASSED, SKIPPED, Journal

_FILE = "tests/gpu_checks.py"


class Rows:
    """A plugin of pytest: a row for each test that has ended, with what it printed."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            outcome = {"passed": PASSED, "failed": FAILED}.get(report.outcome, SKIPPED)
            reason = {"reason": _reason(report)} if outcome != PASSED else {}
            name = report.nodeid.rpartition("::")[2]
            printed = " ".join(report.capstdout.split())
            self._journal.row(name, outcome, took_s=round(report.duration, 2), printed=printed, **reason)


def _reason(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr).splitlines()[0][:600]


def checks(bench: Bench) -> None:
    if not bench.on_gpu:
        bench.journal.row(_FILE, SKIPPED, reason="it needs a GPU")
        return
    if importlib.util.find_spec("pytest") is None:
        bench.journal.row(_FILE, SKIPPED, reason="it needs pytest, which is not installed here")
        return
    import pytest

    code = pytest.main(["--noconftest", "-q", "-p", "no:cacheprovider", _FILE], plugins=[Rows(bench.journal)])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        bench.journal.check(_FILE, False, reason=f"pytest ended with {code!s}")
