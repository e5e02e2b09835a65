"""`labeler revise` on a real local Ray, with a real model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from labeler.cli import main
from labeler.labeling.revision import resolve_revision, revised_config
from labeler.runs import read_snapshot
from tests.conftest import NAMES
from tests.inputs import write_tars
from tests.labeled_here import label_here, revise_here
from tests.processes import kill_all_called_with
from tests.ray_heads import ray_folder
from tests.test_pipeline import config_of, rows_of, run_quietly
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("local_ray")

ROOT = Path(__file__).parent.parent
OPTIONS = ("prompts.max_categories=2", "detect.max_detections=40", "detect.score_floor=0.0")


def label_real(folder: Path, checkpoint: Path, *overrides: str, **options: Any) -> None:
    config = config_of(folder / "in", folder / "out", checkpoint, *OPTIONS, *overrides)
    run_quietly(config, make_detector=None, **options)


def names_file(folder: Path, name: str, names: list[str]) -> str:
    path = folder / f"{name}.txt"
    path.write_text("\n".join(names))
    return str(path)


def revise(folder: Path, run: str, names: list[str], *more: str, to: str = "revised") -> list[str]:
    return ["revise", str(folder / run), "--vocabulary", names_file(folder, to, names), "--output",
            str(folder / to), "ray.cpus_per_worker=1", *more]  # fmt: skip


@pytest.mark.slow
def test_a_revision_says_what_it_costs_and_runs_only_that(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tars(tmp_path / "in", shards=1, images=3)
    label_real(tmp_path, checkpoint)
    rows = rows_of(tmp_path / "out")
    names = [*NAMES[1:], "a " + NAMES[0]]
    command = revise(tmp_path, "out", names)
    anew = -(-len(NAMES) // 2)
    assert main([*command, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    stay = len(NAMES) - 1
    assert (
        f"{len(NAMES)} categories before, {len(NAMES)} now: {stay} stay, 0 with other phrases, 1 new, 1 gone" in printed
    )
    assert f"3: 3 passes, {3 * anew} with a run of its own" in printed
    assert not (tmp_path / "revised").exists()
    assert main(command) == 0
    assert "complete: 3 images" in capsys.readouterr().out
    report = json.loads((tmp_path / "revised/report.json").read_text())
    assert report["passes"] == 3
    stored = json.loads((tmp_path / "revised/run.json").read_text())
    assert (stored["whole"], stored["parent"]["uri"]) == (True, str(tmp_path / "out"))
    for old, new in zip(rows, rows_of(tmp_path / "revised"), strict=True):
        kept = [(d["score"], d["x_min"]) for d in new["detections"] if d["category_id"] < len(NAMES)]
        assert set(kept) <= {(d["score"], d["x_min"]) for d in old["detections"] if d["category_id"] > 1}


@pytest.mark.slow
def test_a_revision_whose_processes_are_killed_in_the_middle_goes_on_to_the_rows_of_an_unkilled_one(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = 120
    write_tars(tmp_path / "in", shards=1, images=images)
    parent = label_here(config_of(tmp_path / "in", tmp_path / "out", checkpoint, *OPTIONS, "unit.max_images=1"))
    command = revise(tmp_path, "out", [*NAMES[1:], "a " + NAMES[0]])
    written = tmp_path / "revised/labels"
    with ray_folder() as folder:
        job = subprocess.Popen(
            [sys.executable, "-m", "labeler", *command, "ray.address=local"],
            cwd=ROOT, env={**os.environ, "RAY_TMPDIR": str(folder)}, stderr=subprocess.PIPE,
        )  # fmt: skip
        wait_until(lambda: job.poll() is not None or len(list(written.rglob("*.parquet"))) >= 3)
        assert job.poll() is None, job.communicate()[1]
        job.kill()
        kill_all_called_with(f"{folder}/")  # workers, readers and Ray itself, at once
        job.communicate()
    kept = {path: path.stat().st_mtime_ns for path in written.rglob("*.parquet")}
    assert 3 <= len(kept) < images, "killed in the middle"
    assert main(["status", str(tmp_path / "revised")]) == 1
    assert main(command) == 0
    assert f"complete: {images} images" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was committed is not done again"
    assert main(["status", str(tmp_path / "revised"), "--verify"]) == 0
    names = [*NAMES[1:], "a " + NAMES[0]]
    whole = resolve_revision(parent, revised_config(parent, names_file(tmp_path, "w", names), str(tmp_path / "w"), ()))
    assert rows_of(tmp_path / "revised") == [
        row for table in read_snapshot(revise_here(parent, whole)).tables() for row in table.to_pylist()
    ]
