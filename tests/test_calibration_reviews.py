"""A corrected run says which of the boxes that went out are right, and gives the estimate that marks give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.calibration.reviews import marks_of_reviews, verdicts
from labeler.cli import main
from labeler.labels.detections import Detections
from labeler.runs import Run, require_run
from tests.correction_parts import correct, made_run, rename, reviewed_tasks
from tests.sample_parts import refused

BEFORE = Detections.of(
    [[0, 0, 20, 20], [30, 0, 50, 20], [60, 0, 80, 20], [0, 30, 20, 50]], [0.9, 0.8, 0.5, 0.5], [1, 1, 2, 3]
)
NAN = float("nan")
# Boxes of the corrected row: sides, category, model's score, source; is the image complete; marks.
ROWS: dict[str, tuple[list[tuple[list[float], int, float, str | None]], bool, list[float]]] = {
    "accepted, and three removed": ([([0, 0, 20, 20], 1, 0.9, "accepted")], True, [1, 0, 0, 0]),
    "single boxes: the others say nothing": (
        [([0, 0, 20, 20], 1, 0.9, "accepted"), ([30, 0, 50, 20], 1, 0.8, None), ([60, 0, 80, 20], 2, 0.5, None)],
        False,
        [1, NAN, NAN, 0],
    ),
    "moved a little, and moved away": (
        [([3, 0, 23, 20], 1, 0.9, "moved"), ([40, 0, 60, 20], 1, 0.8, "moved")], True, [1, 0, 0, 0]),
    "renamed": ([([0, 0, 20, 20], 2, 0.9, "renamed")], True, [0, 0, 0, 0]),
    "renamed back by a second review": ([([0, 0, 20, 20], 1, 0.9, "renamed")], True, [1, 0, 0, 0]),
    "removed and drawn again": ([([1, 1, 20, 20], 1, NAN, "added")], True, [1, 0, 0, 0]),
    "removed, and another name drawn there": ([([0, 0, 20, 20], 3, NAN, "added")], True, [0, 0, 0, 0]),
    "of two with one score, the one that lies there": ([([0, 30, 20, 50], 3, 0.5, "accepted")], True, [0, 0, 0, 1]),
    "one that moved over where another was": (
        [([31, 0, 51, 20], 1, 0.9, "moved")], True, [0, 0, 0, 0]),
    "empty": ([], True, [0, 0, 0, 0]),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_what_a_review_says_of_each_box_that_went_out(name: str) -> None:
    found, is_complete, expected = ROWS[name]
    after = Detections.of([box for box, *_ in found], [score if source is None else 1 for *_, score, source in found],
                          [category for _, category, *_ in found])  # fmt: skip
    more = {
        "source": np.array([source for *_, source in found], np.object_),
        "model_score": np.array([score if source else NAN for *_, score, source in found], np.float32),
    }
    after = Detections(after.boxes, after.scores, after.category_ids, after.chunks, None, more)
    assert verdicts(BEFORE, after, is_complete).tolist() == pytest.approx(expected, nan_ok=True)


def many_boxes(folder: Path) -> Run:
    """12 images with six boxes each of four categories, and scores from 0.3."""
    rng = np.random.default_rng(4)
    corners = np.array([[x, y] for x in (2, 34, 66) for y in (2, 34)], np.float32)
    images = []
    for _ in range(12):
        scores = np.sort(rng.uniform(0.3, 0.99, 6))[::-1]
        images.append(Detections.of(np.hstack([corners, corners + 26]), scores, rng.integers(1, 5, 6)))
    return made_run(folder, images)


def judge(number: int, annotation: dict[str, Any]) -> None:
    """As a reviewer would: by the region's number it is right, moved a little or far, renamed, or gone."""
    result = annotation["result"]
    for place, region in enumerate(result):
        kind = (number * 7 + place) % 6
        region["value"]["x"] += {1: 3.0, 2: 20.0}.get(kind, 0.0) * (-1 if region["value"]["x"] > 60 else 1)
        if kind == 3:
            rename(region, "cat" if region["value"]["rectanglelabels"] != ["cat"] else "dog")
    annotation["result"] = [r for place, r in enumerate(result) if (number * 7 + place) % 6 != 4]


def as_marks(run: Run, tasks: Path, out: Path) -> Path:
    """The same judgments as marks: what `judge` did to each region that went out."""
    values = [task for path in sorted(tasks.glob("*.json")) for task in json.loads(path.read_text())]
    marks = []
    for number, task in enumerate(values):
        asked = {one["box"] for one in task["data"]["labeler_boxes"]}
        for place, region in enumerate(task["predictions"][0]["result"]):
            row, box = region["id"].rsplit("-", 1)
            if f"{row.replace('-', '/')}/{box}" not in asked:
                continue
            shard, index = row.split("-")
            name = region["value"]["rectanglelabels"][0]
            marks.append({
                "image": f"{shard}/{int(index)}", "box": int(box), "score": region["score"],
                "category_id": next(c.id for c in run.vocabulary().categories if c.name == name),
                "right": (number * 7 + place) % 6 in (0, 1, 5),
            })  # fmt: skip
    out.write_text(json.dumps({"run": run.manifest.run_id, "marks": marks}))
    return out


def drawn(run: Run, folder: Path, *options: str) -> tuple[Path, Path]:
    """(sample, its tasks)."""
    path, tasks = folder / "s.json", folder / "tasks"
    assert main(["sample", run.uri, "--output", str(path), *options]) == 0
    assert main(["export", run.uri, "--to", "label-studio", "--sample", str(path), "--output", str(tasks)]) == 0
    return path, tasks


def test_a_corrected_sample_estimates_and_calibrates_as_marks_of_the_same_judgments_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = many_boxes(tmp_path / "run")
    path, tasks = drawn(run, tmp_path, "--strategy", "estimate", "--n", "50")
    marks = as_marks(run, tasks, tmp_path / "marks.json")
    corrected = correct(run, str(reviewed_tasks(tasks, judge)), "--from", "label-studio").uri
    estimates, thresholds = [], []
    for evidence in (str(marks), corrected):
        out, fitted = tmp_path / "estimate.json", tmp_path / "t.yaml"
        said = ["--sample", str(path), "--marks", evidence]
        assert main(["evaluate", run.uri, *said, "--output", str(out)]) == 0
        assert main(["calibrate", run.uri, *said, "--target", "precision=0.3", "--output", str(fitted), "--force"]) == 0
        estimates.append(json.loads(out.read_text()))
        thresholds.append(fitted.read_text().split("default:")[1].split("calibration")[0])
    assert estimates[0] == estimates[1]
    assert thresholds[0] == thresholds[1]
    total = estimates[0]["precision"]
    assert total["judged"] == 50
    assert total["low"] < total["value"] < total["high"]
    assert "never" not in thresholds[0].splitlines()[0]


def test_a_pilot_comes_back_corrected_and_the_rest_corrects_that(tmp_path: Path) -> None:
    run = many_boxes(tmp_path / "run")
    few, tasks = drawn(run, tmp_path, "--strategy", "estimate", "--n", "20")
    first = correct(run, str(reviewed_tasks(tasks)), "--from", "label-studio").uri
    more = tmp_path / "more"
    more.mkdir()
    path, rest = drawn(run, more, "--strategy", "estimate", "--continue", str(few), "--pilot", first, "--n", "60")
    again = str(more / "again")
    # The rest was exported from the run, whose rows the pilot's correction has changed the order of.
    assert main(["correct", run.uri, str(reviewed_tasks(rest)), "--from", "label-studio", "--output", again]) == 0
    out = tmp_path / "estimate.json"
    command = ["evaluate", run.uri, "--sample", str(path), "--output", str(out), "--force"]
    assert main([*command, "--marks", first, "--marks", again]) == 0
    assert json.loads(out.read_text())["precision"]["judged"] == 60
    assert main([*command, "--marks", again]) == 0
    assert json.loads(out.read_text())["precision"]["judged"] == 40


def test_completely_reviewed_images_judge_all_their_boxes(tmp_path: Path) -> None:
    run = many_boxes(tmp_path / "run")
    out = tmp_path / "tasks"
    assert main(["export", run.uri, "--to", "label-studio", "--suppress", "off", "--output", str(out)]) == 0
    corrected = correct(run, str(reviewed_tasks(out, judge, only=[0, 3])), "--from", "label-studio")
    found = marks_of_reviews(corrected, run).marks
    assert [mark.image for mark in found] == ["000000/0"] * 6 + ["000000/3"] * 6
    expected = [(number * 7 + place) % 6 in (0, 1, 5) for number in (0, 3) for place in range(6)]
    assert [mark.right for mark in found] == expected


def test_what_is_no_review_of_the_run_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = many_boxes(tmp_path / "run"), many_boxes(tmp_path / "other")
    path, tasks = drawn(run, tmp_path, "--strategy", "margin", "--n", "30", "--band", "0.3")
    corrected = correct(run, str(reviewed_tasks(tasks)), "--from", "label-studio").uri
    evaluate = ["evaluate", run.uri, "--sample", str(path), "--marks"]
    assert "chosen by margin" in refused(capsys, *evaluate, corrected)
    assert "nobody reviewed" in refused(capsys, *evaluate, other.uri)
    calibrate = ["calibrate", run.uri, "--target", "precision=0.5", "--marks", corrected]
    assert "do not say how their boxes were chosen" in refused(capsys, *calibrate)
    assert "chosen by margin" in refused(capsys, *calibrate, "--sample", str(path))
    assert "nowhere: no such file" in refused(capsys, *evaluate, str(tmp_path / "nowhere"))
    of_other = ["calibrate", other.uri, "--target", "precision=0.5", "--marks", corrected]
    assert "are not corrections of run" in refused(capsys, *of_other)
    assert require_run(corrected).parent is not None
