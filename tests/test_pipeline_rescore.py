"""`labeler rescore` as a command, on a Ray of its own: killed, run again, and equal to a run that was never killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labeler.config import make_config
from labeler.runs import read_progress, read_snapshot, require_run
from tests.conftest import NAMES
from tests.inputs import write_tars
from tests.labeled_here import label_here, rescore_here
from tests.processes import with_environment
from tests.rescorer_parts import tiny_rescorer
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent


@pytest.mark.slow  # two clusters
def test_a_rescored_run_that_was_killed_goes_on_with_the_same_command(tmp_path: Path, checkpoint: Path) -> None:
    values = {
        "input": str(write_tars(tmp_path / "in", shards=12, images=4)),
        "output": str(tmp_path / "out"),
        "vocabulary": NAMES,
        "model": {"name": str(checkpoint), "device": "cpu"},
        "unit": {"max_images": 2},
        "detect": {"score_floor": 0.0, "max_detections": 20},
    }
    run = label_here(make_config(values))
    clip, target = f"rescore.model={tiny_rescorer('siglip')}", tmp_path / "out-rescored"
    command = [sys.executable, "-m", "labeler", "rescore", run.uri, clip]
    command += ["ray.cpus_per_worker=1", "ray.read_tasks=1", "ray.seed=1"]
    mark = f"rescore-{tmp_path}"
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "RESCORE_TEST": mark}, text=True, stderr=subprocess.PIPE
    )
    wait_until(lambda: process.poll() is not None or any(target.glob("labels/*/*.parquet")))
    process.kill()
    said = process.communicate()[1]
    wait_until(lambda: not with_environment(mark))  # its local cluster notices, and writes no more
    assert (target / "run.json").exists(), said
    derived = require_run(str(target))
    before = read_progress(derived).committed_units
    assert not read_snapshot(derived).is_complete, "killed too late to show anything"

    kept = {path: path.stat().st_mtime_ns for path in target.rglob("labels/*/*.parquet")}
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "complete: 48 images in 12 shards: labeled 48" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert read_progress(derived).committed_units >= before
    whole = rescore_here(run, str(tmp_path / "at-once"), clip)
    for found, expected in zip(read_snapshot(derived).tables(), read_snapshot(whole).tables(), strict=True):
        assert found.equals(expected)
