"""What evaluation, calibration and compare make of names that an image was not asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from labeler.calibration.calibrate import calibrate_by_annotations
from labeler.calibration.target import parse_target
from labeler.cli import main
from labeler.evaluation import evaluate_run
from labeler.labels.detections import Detections
from labeler.labels.thresholds import Thresholds
from labeler.review.comparison import compare_runs
from labeler.runs import Run, read_snapshot
from tests.label_runs import row, write_run

CAT, DOG = 3, 8
CAT_BOX, DOG_BOX = [0, 0, 40, 40], [100, 100, 160, 160]
BOTH = Detections.of([CAT_BOX, DOG_BOX], [0.9, 0.8], [CAT, DOG])
CATS = BOTH[:1]
NOTHING = Detections.empty()


def run_of(folder: Path, found: Sequence[Detections], asked: Sequence[Any] | None, **of_last: Any) -> Run:
    rows = [row(index, each) for index, each in enumerate(found)]
    if asked is not None:
        rows = [row(index, each, asked=ids) for index, (each, ids) in enumerate(zip(found, asked, strict=True))]
    if of_last:
        rows[-1] = row(len(rows) - 1, asked=[], **of_last)
    return write_run(folder, {(0, 0): rows}, columns=[] if asked is None else ["asked"])


def truth_of(images: int) -> dict[str, Any]:
    """A cat and a dog in each image."""
    boxes = [(CAT, [0, 0, 40, 40]), (DOG, [100, 100, 60, 60])]
    annotations = [
        {"id": 2 * image + place, "image_id": image + 1, "iscrowd": 0, "category_id": category, "bbox": box}
        for image in range(images)
        for place, (category, box) in enumerate(boxes, 1)
    ]
    return {
        "images": [
            {"id": n + 1, "file_name": f"part-0.tar/{n}.jpg", "width": 640, "height": 480} for n in range(images)
        ],
        "annotations": annotations,
        "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
    }


def test_objects_of_names_that_were_not_asked_are_no_misses_unless_that_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Asked for cats, for nothing, for all; the last could not be labeled, so that nothing can be known of it.
    run = run_of(
        tmp_path / "run", [CATS, NOTHING, BOTH, NOTHING], [[CAT], [], None, []], status="decode_error", error="bad"
    )
    truth = truth_of(4)
    found = evaluate_run(run.uri, truth)
    assert found.scores[0].objects.tolist() == [3, 2], "cats of images 0, 2 and 3; dogs of 2 and 3"
    assert found.scores[0].true_positives[:, 0].tolist() == [2, 1]
    expected = {"objects": 3, "of_objects": 8, "pairs": 3, "of_pairs": 8, "counted_as_missed": False}
    assert found.protocol["not_asked"] == expected
    missed = evaluate_run(run.uri, truth, not_asked_missed=True)
    assert missed.scores[0].objects.tolist() == [4, 4]
    assert missed.protocol["not_asked"] == {**expected, "counted_as_missed": True}
    assert (missed.score().summary()["AP"] or 0) < (found.score().summary()["AP"] or 0)  # type: ignore[union-attr]

    annotations = tmp_path / "truth.json"
    annotations.write_text(json.dumps(truth))
    command = ["evaluate", run.uri, "--annotations", str(annotations)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "not asked   3 of 8 objects are of names that their image was not asked for: excluded" in printed
    assert "ceiling     0.625 of the (image, category) pairs with objects were asked for" in printed
    assert main([*command, "--not-asked", "missed"]) == 0
    assert "asked for: they count as missed" in capsys.readouterr().out


def test_a_run_that_asks_for_all_is_evaluated_as_before(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [BOTH, CATS], None)
    assert "not_asked" not in evaluate_run(run.uri, truth_of(2)).protocol


def test_calibration_counts_only_what_was_asked(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [BOTH] * 40 + [CATS] * 40, [None] * 40 + [[CAT]] * 40)
    fitted = calibrate_by_annotations(read_snapshot(run), truth_of(80), parse_target("recall=0.9"))
    assert {one.category_id: one.status for one in fitted.choices} == {CAT: "fitted", DOG: "fitted"}, (
        "half of all dogs were not asked for"
    )


def test_compare_leaves_out_boxes_of_names_that_the_other_run_was_not_asked(tmp_path: Path) -> None:
    whole = run_of(tmp_path / "whole", [BOTH] * 3, None)
    some = run_of(tmp_path / "some", [CATS, NOTHING, CATS], [[CAT], [], None])
    limits = Thresholds(0.3), Thresholds(0.3)
    found = compare_runs((whole, some), limits, str(tmp_path / "a.html"))
    assert found.facts["not_asked"] == [3, 0], "a dog, and a cat and a dog"
    assert (found.total.same, found.total.lost, found.total.added) == (2, 1, 0), "it was asked for"
    back = compare_runs((some, whole), limits, str(tmp_path / "b.html"))
    assert back.facts["not_asked"] == [0, 3]
    assert (back.total.same, back.total.lost, back.total.added) == (2, 0, 1)
    page = (tmp_path / "a.html").read_text()
    assert page.count('"kind":"lost"') == 1, "the images that are shown say the same"
