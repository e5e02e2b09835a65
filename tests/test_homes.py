"""One home for each idea: what says it a second time elsewhere fails here. And what a worker has no use for."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house import Function, numbers

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "labeler"

# What is called, or given by name -> the only modules that may: each is one idea, with one set of rules.
HOMES = {
    "blake2b": {"digests.py"},  # a digest
    "sort_keys=True": {"digests.py"},  # canonical JSON
    "get_close_matches": {"errors.py"},  # did you mean
    "json.loads": {"plain_json.py", "digests.py", "vocabulary/model.py"},  # JSON; the last two read labeler's own files
    "yaml.safe_load": set(),  # plain_yaml has a loader of its own
    "expanduser": {"storage/uris.py"},  # a path as people write it
    "list_flatten": {"labels/detections_column.py", "labels/records.py"},  # the column of detections
    "SCORE_THRESHOLDS.astype": {"evaluation/average_precision.py"},  # how many scores are at or above each
    "threading.Thread": {"pipeline/beside.py"},  # what a session does beside its work
    # threads ahead of a reader, or behind a writer
    "submit": {"ahead.py", "exports/pixels.py", "exports/formats.py", "labeling/unit.py", "processes.py"},
    "pq.read_table": set(),  # its threads may outlive it and end the process: see parquet_bytes.py
    "COCOeval": set(),  # it judges the tests alone
}


def called(tree: ast.Module) -> Iterator[str]:
    """`name`, `module.name` and `argument=True` of every call."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute):
            yield node.func.attr
            if isinstance(node.func.value, ast.Name):
                yield f"{node.func.value.id}.{node.func.attr}"
        elif isinstance(node.func, ast.Name):
            yield node.func.id
        for keyword in node.keywords:
            if isinstance(keyword.value, ast.Constant) and keyword.value.value is True:
                yield f"{keyword.arg}=True"


@pytest.mark.parametrize("idea", HOMES)
def test_an_idea_is_at_home_in_one_place(idea: str) -> None:
    found = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if idea in called(ast.parse(path.read_text()))
    }
    assert found == HOMES[idea]


def test_storage_knows_no_run() -> None:
    """Which folders share one for unfinished files is told to it, by `runs.layout`."""
    for path in (PACKAGE / "storage").glob("*.py"):
        texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not texts & {"run.json", "labels", "shards"}, path


def test_each_module_says_in_its_first_line_what_it_is_for() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_no_class_name_stands_for_two_things() -> None:
    count, _, names = numbers(PACKAGE)["class names that stand twice"].partition(":")
    assert count == "0", names


def test_no_function_is_longer_than_the_longest_has_ever_been() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, Function):
                assert (node.end_lineno or 0) - node.lineno < 87, f"{path}: {node.name}"


def test_a_worker_loads_nothing_that_only_trains_or_draws() -> None:
    """Labeling does not need synthetic scenes, scratch checkpoints, training or pages."""
    program = (
        "import labeler.pipeline.worker, labeler.pipeline.source, labeler.detectors.grounding_dino.detector, sys; "
        "unwanted = ('labeler.training', 'labeler.review', 'labeler.exports', 'labeler.evaluation', 'labeler.truth', "
        "'labeler.detectors.grounding_dino.scratch', 'labeler.detectors.grounding_dino.wordpiece', 'scipy', 'duckdb'); "
        "print(sorted(name for name in sys.modules if name.startswith(unwanted) and not name.startswith('scipy')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
