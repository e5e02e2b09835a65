"""What files of tests need, and who runs them."""

from __future__ import annotations

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
        ("test_pipeline_preflight", {"ray", "torch"}),  # by a fixture
        ("test_pipeline_connection", {"ray"}),  # by a helper
        ("test_pipeline_stopping", {"ray", "torch"}),  # by helpers of a helper
        ("test_review_browser", {"browser"}),
        ("test_detectors_kernels", {"torch", "triton"}),
        ("test_labels_boxes", set()),
        ("test_pipeline_node_memory", set()),  # imports what imports ray, and starts none
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
