"""Calibration by marks of boxes: what ground truth gives, and advice where they do not suffice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.calibration import calibrate_by_annotations, calibrate_by_marks, parse_target
from labeler.calibration.evidence import MarkEvidence
from labeler.calibration.fit import fit
from labeler.calibration.marks import read_marks
from labeler.cli import main
from labeler.errors import Refused
from labeler.evaluation.average_precision import SCORE_THRESHOLDS
from labeler.labels.detections import Detections
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.thresholds import NEVER
from labeler.runs import Run, read_snapshot
from tests.label_runs import noisy_run, row, write_run

SHARPNESS = {3: 1.0, 8: 0.5}  # chance of being right: score, and its square root


def marks_of(run: Run, right: Any, *, every: int = 1) -> dict[str, Any]:
    """Marks of some boxes, as a report writes them: by row id for even rows, by digest for odd ones."""
    marks = []
    for table in read_snapshot(run).tables():
        for shown, detections in zip(table.to_pylist(), DetectionsColumn(table).per_row(masks=False), strict=True):
            separator = "/\\:-"[shown["index"] // 2 % 4]  # as people write it
            row_id = f"{shown['shard_id']}{separator}{shown['index']}"
            image = row_id if shown["index"] % 2 == 0 else shown["digest"]
            for box in range(0, len(detections), every):
                id_, score = int(detections.category_ids[box]), round(float(detections.scores[box]), 6)
                found = {"image": image, "box": box, "category_id": id_, "score": score}
                marks.append({**found, "right": bool(right(shown["index"], box, score)), "drawn": True})
    return {"run": run.manifest.run_id, "marks": marks}


def read(values: Any, folder: Path) -> Any:
    (folder / "marks.json").write_text(json.dumps(values))
    return read_marks(str(folder / "marks.json"))


def test_marks_on_every_box_give_what_ground_truth_gives(tmp_path: Path) -> None:
    run, truth = noisy_run(tmp_path / "run", SHARPNESS, images=80)
    boxes = {(a["image_id"] - 1, a["category_id"], *a["bbox"][:2]) for a in truth["annotations"]}
    rows = [d for table in read_snapshot(run).tables() for d in DetectionsColumn(table).per_row(masks=False)]

    def right(index: int, box: int, score: float) -> bool:
        x, y = rows[index].boxes[box][:2].tolist()
        return (index, int(rows[index].category_ids[box]), x, y) in boxes

    target = parse_target("precision=0.8")
    marks = read(marks_of(run, right), tmp_path)
    by_marks = calibrate_by_marks(read_snapshot(run), marks, target)
    by_truth = calibrate_by_annotations(read_snapshot(run), truth, target)
    for marked, judged in zip(by_marks.choices, by_truth.choices, strict=True):
        assert marked.threshold == pytest.approx(judged.threshold, abs=0.02)
        assert marked.recall is None


def test_marks_taken_evenly_over_the_scores_are_weighed_by_the_boxes_there_are() -> None:
    """900 boxes between .3 and .4 of which half are right, 100 above .9 that all are: .55 together, not .75."""
    at_least = np.where(SCORE_THRESHOLDS <= 0.3 + 1e-9, 1000, 100) * (SCORE_THRESHOLDS <= 0.95)
    marks = np.array([(0.35, i % 2) for i in range(100)] + [(0.95, 1.0)] * 100, np.float64)
    curve = MarkEvidence({3: marks}, {3: at_least}).curve([3])
    place = int(np.abs(SCORE_THRESHOLDS - 0.3).argmin())
    assert curve.precision[place] == pytest.approx(0.55)
    assert curve.support[place] < 200
    assert curve.precision[89] == 1.0


def spread(right: Any, boxes: int, *, marks: int = 24) -> tuple[Any, Any]:
    """Marks evenly over the scores, and as many boxes as there are, evenly too."""
    scores = np.linspace(0.06, 0.99, marks)
    found = np.array([(score, float(right(place))) for place, score in enumerate(scores)])
    return found, (boxes * (1 - np.maximum(SCORE_THRESHOLDS - 0.05, 0) / 0.95)).astype(np.int64)


def test_a_frequent_category_weighs_by_its_boxes_in_the_fallback() -> None:
    """24 marks a category, as galleries show: one of 100,000 boxes with 1 in 5 right, 40 of 200 with nearly all."""
    kinds = {1: spread(lambda place: place % 5 == 0, 100_000)}
    kinds |= {id_: spread(lambda place, id_=id_: (place + id_) % 33 > 0, 200) for id_ in range(2, 42)}
    evidence = MarkEvidence({i: m for i, (m, _) in kinds.items()}, {i: b for i, (_, b) in kinds.items()})
    together = evidence.curve(evidence.category_ids)
    assert together.precision[4] == pytest.approx((100_000 * 5 / 24 + 8_000 * 0.97) / 108_000, abs=0.06)
    assert together.support[4] < 35, "nearly all the weight is on one category's 24 marks"

    found = fit(evidence, parse_target("precision=0.9"), floor=0.05)
    frequent, *others = found.choices
    assert (frequent.status, frequent.threshold) == ("refuted", NEVER)
    assert {c.status for c in others} == {"rare"}
    assert found.fallback.precision is not None
    assert found.fallback.threshold < 0.1
    assert 0.95 < found.fallback.precision.value < 0.99


def test_a_category_without_marks_where_the_others_have_some_is_not_taken_for_better_than_it_is() -> None:
    good, few = spread(lambda place: True, 1000), spread(lambda place: place % 2, 1000)
    high_only = few[0][few[0][:, 0] > 0.5]
    curve = MarkEvidence({1: good[0], 2: high_only}, {1: good[1], 2: few[1]}).curve([1, 2])
    assert curve.precision[4] == pytest.approx(0.75, abs=0.02), "its own marks say less than the other's do"
    bad = spread(lambda place: place % 4 == 0, 1000)
    curve = MarkEvidence({1: bad[0], 2: high_only}, {1: bad[1], 2: few[1]}).curve([1, 2])
    assert curve.precision[4] == pytest.approx((0.25 + (0.25 + 0.5) / 2) / 2, abs=0.03), "the other's say less"
    assert np.isnan(MarkEvidence({2: high_only}, {2: few[1]}).curve([2]).precision[4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v | {"run": "other"}, "are of run other, this is run"),
        (lambda v: v | {"marks": [v["marks"][0] | {"image": "000000/99"}]}, "1 are not about boxes"),
        (lambda v: v | {"marks": [v["marks"][0] | {"box": 7}]}, "1 are not about boxes"),
        (lambda v: v | {"marks": [v["marks"][0] | {"category_id": 8}]}, "1 are not about boxes"),
        (lambda v: v | {"marks": [{"image": "x", "box": 0}]}, "1 bad entries of 1"),
        (lambda v: v | {"marks": []}, "no marks in it"),
        (lambda v: [], "must be an object"),
    ],
)
def test_marks_about_something_else_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    run = write_run(tmp_path / "run", {(0, 0): [row(0, Detections.of([[0, 0, 9, 9]], [0.9], [3]))]})
    (tmp_path / "marks.json").write_text(json.dumps(change(marks_of(run, lambda *_: True))))

    def calibrate() -> None:
        marks = read_marks(str(tmp_path / "marks.json"))
        calibrate_by_marks(read_snapshot(run), marks, parse_target("precision=0.9"))

    with pytest.raises(Refused, match=message):
        calibrate()


def a_mark(*, image: str = "000000/0", score: str = "0.9") -> str:
    mark = f'{{"image": "{image}", "box": 0, "category_id": 3, "score": {score}, "right": true}}'
    return f'{{"run": "r", "marks": [{mark}]}}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "are not JSON"),
        ('{"run": "r", "marks": ' + "[" * 100_000 + "]" * 100_000 + "}", "are not JSON"),
        (a_mark(score="1" * 400), "1 bad entries of 1"),
        (a_mark(score="1" * 5000), "are not JSON"),
        (a_mark(score="NaN"), "1 bad entries of 1"),
        (a_mark(score="-0.1"), "1 bad entries of 1"),
        (a_mark(image="000000/" + "1" * 5000), "1 bad entries of 1"),
    ],
)
def test_hostile_marks_are_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    run = write_run(tmp_path / "run", {(0, 0): [row(0, Detections.of([[0, 0, 9, 9]], [0.9], [3]))]})
    (tmp_path / "marks.json").write_text(text)
    assert main(["calibrate", run.uri, "--marks", str(tmp_path / "marks.json"), "--target", "precision=0.9"]) == 2
    assert message in capsys.readouterr().err.splitlines()[0]


def test_marks_know_no_recall(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {(0, 0): [row(0, Detections.of([[0, 0, 9, 9]], [0.9], [3]))]})
    marks = read(marks_of(run, lambda *_: True), tmp_path)
    with pytest.raises(Refused, match="ask for a precision"):
        calibrate_by_marks(read_snapshot(run), marks, parse_target("recall=0.9"))


# ---- messages if nothing is reached, and replaced files


def calibrate_by(run: Run, folder: Path, right: Any, *options: str, every: int = 1) -> int:
    (folder / "marks.json").write_text(json.dumps(marks_of(run, right, every=every)))
    return main(["calibrate", run.uri, "--marks", str(folder / "marks.json"), *options])


def test_marks_that_reach_nothing_are_told_the_best_and_what_to_mark_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten dogs with a score of 0.9, all right: 0.859 by Wilson's lower bound; 0.9 needs 15 of them."""
    run = write_run(tmp_path / "run", {(0, 0): [row(i, Detections.of([[0, 0, 9, 9]], [0.9], [8])) for i in range(10)]})
    assert calibrate_by(run, tmp_path, lambda *_: True, "--target", "precision=0.9") == 0
    out = capsys.readouterr().out
    assert "warning: nothing reaches the target" in out
    assert "best reached: precision 1.000, at 90% confidence at least 0.859" in out
    assert "ask for precision=0.85" in out
    assert "or judge next: about 5 more boxes with scores from 0.05 of dog, if as many are right" in out
    assert calibrate_by(run, tmp_path, lambda *_: True, "--target", "precision=0.85") == 0
    assert "warning" not in capsys.readouterr().out, "what it advised works"


def test_marks_of_which_too_few_are_right_anywhere_are_not_told_to_mark_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", {(0, 0): [row(i, Detections.of([[0, 0, 9, 9]], [0.9], [8])) for i in range(40)]})
    assert calibrate_by(run, tmp_path, lambda index, *_: index % 2, "--target", "precision=0.9") == 0
    out = capsys.readouterr().out
    assert "best reached: precision 0.500" in out
    assert "no category has a precision above 0.9 anywhere" in out
    assert "judge next" not in out
    assert "(best 0.500 from 0.05)" in out
