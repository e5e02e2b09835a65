"""The logistic fit of two scores: against a search by brute force, and from annotations and marks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labeler.calibration.fusion import JudgedBoxes, boxes_of_marks, boxes_of_truth, fit_fusion, likelihood
from labeler.calibration.marks import Mark, Marks
from labeler.errors import Refused
from labeler.labels.chosen_score import logit
from labeler.runs import read_snapshot
from tests.rescored_runs import PER_IMAGE, rescored_run


def drawn(count: int, seed: int, weights: tuple[float, float, float] = (-0.5, 0.7, 1.5)) -> JudgedBoxes:
    rng = np.random.default_rng(seed)
    score, score2 = rng.uniform(0.01, 0.99, (2, count))
    log_odds = weights[0] + weights[1] * logit(score) + weights[2] * logit(score2)
    return JudgedBoxes(score, score2, rng.random(count) < 1 / (1 + np.exp(-log_odds)))


def searched(boxes: JudgedBoxes) -> np.ndarray:
    """The best weights by a grid that closes in on the best of its points."""
    features = np.stack([np.ones(len(boxes.right)), logit(boxes.score), logit(boxes.score2)], 1)
    verdicts, best, reach = boxes.right.astype(float), np.zeros(3), 8.0
    while reach > 1e-5:
        grid = np.stack(np.meshgrid(*[np.linspace(-reach, reach, 5)] * 3), -1).reshape(-1, 3) + best
        values = [likelihood(features, verdicts, point) for point in grid]
        nearest = grid[int(np.argmax(values))]
        reach = reach if (nearest != best).any() else reach / 2
        best = nearest
    return best


@pytest.mark.parametrize(("count", "seed"), [(30, 1), (200, 2), (1000, 3)])
def test_the_fit_is_the_optimum_that_a_search_finds(count: int, seed: int) -> None:
    boxes = drawn(count, seed)
    fusion = fit_fusion(boxes)
    found = np.array([fusion.intercept, fusion.score, fusion.score2])
    np.testing.assert_allclose(found, searched(boxes), atol=1e-4)
    features = np.stack([np.ones(count), logit(boxes.score), logit(boxes.score2)], 1)
    chances = 1 / (1 + np.exp(-features @ found))
    by_hand = np.log(np.where(boxes.right, chances, 1 - chances)).sum() - 0.5 * (found[1:] ** 2).sum()
    assert likelihood(features, boxes.right.astype(float), found) == pytest.approx(by_hand)


def test_scores_that_part_right_from_wrong_wholly_have_a_finite_fit() -> None:
    right = np.arange(60) >= 30
    boxes = JudgedBoxes(np.where(right, 1.0, 0.0), np.where(right, 1.0, 0.0), right)
    fusion = fit_fusion(boxes)
    assert np.isfinite([fusion.intercept, fusion.score, fusion.score2]).all()
    assert fusion.score == pytest.approx(fusion.score2)
    assert fusion.score > 0


def test_many_boxes_give_back_the_weights_they_were_drawn_with() -> None:
    fusion = fit_fusion(drawn(40_000, 5))
    assert [fusion.intercept, fusion.score, fusion.score2] == pytest.approx([-0.5, 0.7, 1.5], abs=0.06)


def test_too_few_boxes_or_one_verdict_alone_are_refused() -> None:
    few = drawn(29, 1)
    sure = drawn(50, 1)
    for boxes in (few, JudgedBoxes(sure.score, sure.score2, sure.right | True)):
        with pytest.raises(Refused, match="needs at least 30 judged boxes with a second score, right ones and wrong"):
            fit_fusion(boxes)


def test_boxes_are_judged_by_annotations_and_by_marks_alike(tmp_path: Path) -> None:
    run, truth = rescored_run(tmp_path / "run", images=6, missing=2)
    snapshot = read_snapshot(run)
    by_truth = boxes_of_truth(snapshot, truth)
    assert len(by_truth.right) == 6 * (PER_IMAGE - 2)
    objects = {(a["image_id"], a["bbox"][0]) for a in truth["annotations"]}
    marks = []
    for table in snapshot.tables():
        for found in table.to_pylist():
            for place, box in enumerate(found["detections"]):
                right = (found["index"] + 1, box["x_min"]) in objects
                # As a report shows it: now the detector's score, now the second one.
                score = box["score"] if place % 2 or box["score2"] is None else box["score2"]
                about = {"box": place, "category_id": box["category_id"], "score": score, "right": right}
                marks.append(Mark(image=f"{found['shard_id']}/{found['index']}", **about))
    by_marks = boxes_of_marks(snapshot, Marks("m", run.manifest.run_id, tuple(marks)))
    for boxes in (by_truth, by_marks):
        order = np.lexsort((boxes.score2, boxes.score))
        assert len(order) == len(by_truth.right)
        np.testing.assert_array_equal(boxes.right[order], by_truth.right[np.lexsort((by_truth.score2, by_truth.score))])
    assert fit_fusion(by_marks) == fit_fusion(by_truth)
    wrong = Mark(image="000000/0", box=0, category_id=marks[0].category_id, score=0.12345, right=True)
    with pytest.raises(Refused, match="1 are not about boxes of this run"):
        boxes_of_marks(snapshot, Marks("m", run.manifest.run_id, (*marks, wrong)))
