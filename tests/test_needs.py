"""What files of tests need, and who runs them."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.needs import HERE, NEEDS, needs_of

ROOT = Path(__file__).parent.parent
REPORTING = """
import os
from pathlib import Path
import pytest
@pytest.mark.parametrize("number", range(5))
def test_reports_its_process(number):
    with Path(__file__).with_suffix(".processes").open("a") as file:
        print(os.environ["PYTEST_XDIST_WORKER"], file=file)
"""


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("test_preflight", {"ray"}),  # by a fixture
        ("test_connection", {"ray"}),  # by a helper
        ("test_stopping", {"ray", "torch"}),  # by helpers of a helper
        ("test_review_browser", {"browser"}),
        ("test_detectors_kernels", {"torch", "triton"}),
        ("test_boxes", set()),
        ("test_node_memory", set()),  # imports what imports ray, and starts none
        ("conftest", set()),
    ],
)
def test_needs_are_read_off_the_text_of_a_file_and_its_helpers(name: str, needs: set[str]) -> None:
    assert needs_of(name) == needs


def test_every_need_is_a_mark_that_most_files_do_not_have(request: pytest.FixtureRequest) -> None:
    marks = {line.partition(":")[0] for line in request.config.getini("markers")}
    assert marks >= set(NEEDS)
    files = [needs_of(path.stem) for path in HERE.glob("test_*.py")]
    assert all(0 < sum(need in needs for needs in files) < len(files) / 2 for need in NEEDS)
    assert not list(request.node.iter_markers("ray")), "this file has none itself"


def test_a_file_s_tests_run_in_one_process_and_all_with_ray_in_the_same(tmp_path: Path) -> None:
    names = ("test_pipeline", "test_preflight", "test_boxes")  # two that need Ray, by their names
    for name in names:
        (tmp_path / f"{name}.py").write_text(REPORTING)
    command = [sys.executable, "-m", "pytest", "-n", "2", "-p", "tests.xdist_files", "-c", "/dev/null", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "15 passed" in done.stdout, done.stdout
    assert "units" not in done.stdout, "and the scheduler prints no line of its own"
    processes = defaultdict(set)
    for name in names:
        processes[name] |= set((tmp_path / f"{name}.processes").read_text().split())
    assert processes["test_pipeline"] == processes["test_preflight"]
    assert {len(found) for found in processes.values()} == {1}
    assert processes["test_boxes"] != processes["test_pipeline"]
