"""Runs derived from corrected runs: masks, second scores, new shards, other vocabularies. Without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.cli import main
from labeler.config import Config, make_config
from labeler.labels.records import Row
from labeler.runs import Run, require_run
from tests.conftest import NAMES
from tests.correction_parts import correct, export, made_run, reviewed_tasks, rows
from tests.inputs import write_tars
from tests.labeled_here import extend_here, label_here, mask_here, rescore_here
from tests.rescorer_parts import tiny_rescorer
from tests.sample_parts import refused
from tests.segmenter_parts import tiny_sam


def config_of(folder: Path, checkpoint: Path) -> Config:
    values = {
        "input": str(folder / "in"),
        "output": str(folder / "run"),
        "vocabulary": NAMES,
        "model": {"name": str(checkpoint), "device": "cpu"},
        "unit": {"max_images": 2},
        "detect": {"score_floor": 0.0, "max_detections": 5},
    }
    return make_config(values)


def edit(number: int, annotation: dict[str, Any]) -> None:
    """Image 0: a box is shrunk. Image 1: everything is removed. Image 2: a box is drawn."""
    result = annotation["result"]
    if number == 0:
        value = result[0]["value"]
        value["width"], value["height"] = value["width"] * 0.6, value["height"] * 0.6
    elif number == 1:
        result.clear()
    else:
        value = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": [NAMES[0]]}
        result.append({**result[0], "id": "drawn", "value": value, "origin": "manual"})


@pytest.fixture
def runs(tmp_path: Path, checkpoint: Path) -> tuple[Run, Run]:
    """(a run over two shards of two images, the same after three of its images were reviewed)."""
    write_tars(tmp_path / "in", shards=2, images=2)
    run = label_here(config_of(tmp_path, checkpoint))
    out = export(run, "label-studio")
    return run, correct(run, str(reviewed_tasks(out, edit, only=[0, 1, 2])), "--from", "label-studio")


def without_masks(found: list[Row]) -> list[Any]:
    """Everything that a review says of rows."""
    return [
        (row.index, row.status, row.review, row.detections.boxes.tolist(), row.detections.scores.tolist(),
         [str(one) for one in row.detections.more.get("source", ())],
         np.nan_to_num(row.detections.more.get("model_score", np.zeros(0)), nan=-1).tolist())
        for row in found
    ]  # fmt: skip


@pytest.mark.slow
def test_masks_and_second_scores_are_made_for_a_corrected_run_and_its_reviews_stay(
    tmp_path: Path, runs: tuple[Run, Run]
) -> None:
    before = rows(runs[1])
    assert [row.review for row in before] == ["complete", "complete", "complete", None]
    masked = mask_here(runs[1], str(tmp_path / "masked"), f"masks.model={tiny_sam('sam2')}")
    found = rows(masked)
    assert without_masks(found) == without_masks(before)
    assert all(row.detections.count_masks() == len(row.detections) for row in found), "of moved and drawn boxes, too"
    scored = rescore_here(runs[1], str(tmp_path / "scored"), f"rescore.model={tiny_rescorer('siglip')}")
    found = rows(scored)
    assert without_masks(found) == without_masks(before)
    assert all(np.isfinite(row.detections.more["score2"]).all() for row in found)


def test_a_corrected_run_is_not_revised_and_the_line_says_how_reviews_come_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_run(tmp_path)
    corrected = correct(run, str(reviewed_tasks(export(run, "label-studio"))), "--from", "label-studio")
    (tmp_path / "names.txt").write_text("zebra\n")
    names = str(tmp_path / "names.txt")
    line = refused(capsys, "revise", corrected.uri, "--vocabulary", names, "--output", str(tmp_path / "new"))
    assert "give `labeler revise` the run before" in line
    assert f"--from-run {corrected.uri}" in line
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_new_shards_come_to_the_corrected_run_by_the_same_command(
    tmp_path: Path, checkpoint: Path, runs: tuple[Run, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run, corrected = runs
    before = without_masks(rows(corrected))
    write_tars(tmp_path / "in", shards=1, images=2, first=2)
    extend_here(run, config_of(tmp_path, checkpoint))
    project = tmp_path / "project.json"
    command = ["correct", run.uri, str(project), "--from", "label-studio", "--output", corrected.uri]
    assert main(command) == 0
    found = rows(require_run(corrected.uri))
    assert without_masks(found)[:4] == before
    assert [row.review for row in found[4:]] == [None, None]
    assert [one[:5] for one in without_masks(found)[4:]] == [one[:5] for one in without_masks(rows(run))[4:]]
    # The new images go out and come back into a run of their own, over the corrected one.
    out = tmp_path / "out-again"
    everything = ("--suppress", "off", "--min-side", "0")
    assert main(["export", corrected.uri, "--to", "label-studio", "--output", str(out), *everything]) == 0
    again = str(tmp_path / "again")
    more = reviewed_tasks(out, only=[4])
    assert main(["correct", corrected.uri, str(more), "--from", "label-studio", "--output", again]) == 0
    assert [row.review for row in rows(require_run(again))] == ["complete"] * 3 + [None, "complete", None]
