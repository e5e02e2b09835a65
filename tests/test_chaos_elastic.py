"""Nodes that come and go during a run, played by `benchmarks.elastic` with fake GPUs. `make chaos` runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]


def play(scenario: str, tmp_path: Path) -> dict[str, Any]:
    """What the benchmark says of a scenario; it has compared rows with images, each exactly one."""
    found = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.elastic", scenario, "--json", str(found)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0
    result: dict[str, Any] = json.loads(found.read_text())[scenario]
    print(f"\n{scenario}: {result}")
    return result


@pytest.mark.parametrize(("scenario", "nodes"), [("grow", 3), ("late", 2), ("mixed", 3)])
def test_every_node_with_a_gpu_is_at_work_whenever_it_joined(scenario: str, nodes: int, tmp_path: Path) -> None:
    assert len(play(scenario, tmp_path)["images_by_node"]) == nodes


def test_what_is_left_of_a_cluster_goes_on_at_its_own_pace(tmp_path: Path) -> None:
    found = play("shrink", tmp_path)
    ideal = 1 / found["seconds_per_image"]
    assert max(found["images_a_second_by_10_s"][-7:-1]) >= 0.8 * ideal


def test_only_the_named_kind_of_gpu_is_used(tmp_path: Path) -> None:
    assert len(play("kinds", tmp_path)["images_by_node"]) == 1


def test_a_unit_is_finished_or_not_begun_on_a_node_that_is_taken_away(tmp_path: Path) -> None:
    assert play("spot", tmp_path)["detected_again_percent"] <= 3
