"""Precision, recall and F1 at thresholds: what exports at that threshold would contain."""

from __future__ import annotations

import numpy as np
import pytest

from labeler.evaluation import COCO, evaluate_results, read_ground_truth, score
from labeler.evaluation.average_precision import SCORE_THRESHOLDS
from labeler.evaluation.operating_points import OperatingPoints, micro, per_category
from labeler.evaluation.results import parse_results
from tests.evaluation_reference import judge
from tests.evaluation_scenes import make_results, make_truth

NOTHING = np.zeros(len(SCORE_THRESHOLDS), np.int64)


def test_without_detections_there_is_no_precision_and_no_best() -> None:
    points = OperatingPoints.of(NOTHING, NOTHING, 3, 0.0)
    assert points.best_point() is None
    assert points.at(0) == {"threshold": 0.01, "precision": None, "recall": 0.0, "f1": 0.0, "detections": 0}


def test_without_objects_there_is_no_recall() -> None:
    points = OperatingPoints.of(NOTHING, NOTHING + 2, 0, 0.0)
    assert points.at(0)["recall"] is None
    assert points.at(0)["precision"] == 0.0
    assert points.best_point() is None


def test_nothing_is_said_below_the_score_floor() -> None:
    points = OperatingPoints.of(NOTHING, NOTHING, 1, 0.3)
    assert points.thresholds[0] == pytest.approx(0.3)
    assert [row["threshold"] for row in points.table()][:2] == [0.3, 0.35]


def test_the_table_goes_from_5_to_95_hundredths() -> None:
    rows = OperatingPoints.of(NOTHING, NOTHING, 1, 0.05).table()
    assert [row["threshold"] for row in rows] == [round(0.05 * step, 2) for step in range(1, 20)]


def test_the_best_threshold_is_the_lowest_of_equal_ones() -> None:
    true = np.where(SCORE_THRESHOLDS <= 0.5, 4, 0)
    false = np.where(SCORE_THRESHOLDS < 0.2, 9, 1)
    best = OperatingPoints.of(true, false, 4, 0.0).best_point()
    assert best == {"threshold": 0.2, "precision": 0.8, "recall": 1.0, "f1": pytest.approx(8 / 9), "detections": 5}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.75])
def test_counts_at_a_threshold_are_those_of_judging_only_what_it_keeps(seed: int, threshold: float) -> None:
    truth = make_truth(seed)
    results = make_results(seed, truth, digits=2)
    verdicts: dict[int, list[bool]] = {c["id"]: [] for c in truth["categories"]}
    for image in truth["images"]:
        for category in truth["categories"]:
            pair = (image["id"], category["id"])
            kept = [r for r in results if (r["image_id"], r["category_id"]) == pair and r["score"] >= threshold]
            wanted = [a for a in truth["annotations"] if (a["image_id"], a["category_id"]) == pair]
            kept.sort(key=lambda r: -r["score"])
            judged = judge(kept, wanted, 0.5, lambda one: bool(one["iscrowd"]), crowds=True)
            verdicts[category["id"]] += [v for v in judged if v is not None]
    parsed = read_ground_truth(truth)
    ours = score(parsed, parse_results(parsed, results, "bbox", source="test"), COCO)
    objects = {c: sum(a["category_id"] == c and not a["iscrowd"] for a in truth["annotations"]) for c in verdicts}

    def expect(points: OperatingPoints, judged: list[bool], total: int) -> None:
        row = next(row for row in points.table() if row["threshold"] == threshold)
        right = sum(judged)
        assert row["detections"] == len(judged)
        assert row["precision"] == (pytest.approx(right / len(judged), abs=1e-6) if judged else None)
        assert row["recall"] == (pytest.approx(right / total, abs=1e-6) if total else None)
        if judged or total:
            assert row["f1"] == pytest.approx(2 * right / (len(judged) + total), abs=1e-6)

    expect(micro(ours, floor=0.0), [v for judged in verdicts.values() for v in judged], sum(objects.values()))
    for category, points in zip(parsed.categories, per_category(ours, floor=0.0), strict=True):
        expect(points, verdicts[category.id], objects[category.id])


def test_a_score_that_is_the_threshold_is_kept_as_exports_keep_it() -> None:
    truth = make_truth(0)
    annotation = next(a for a in truth["annotations"] if not a["iscrowd"])
    result = {**{k: annotation[k] for k in ("image_id", "category_id", "bbox")}, "score": 0.3}
    for kind in (np.float32, np.float64):
        parsed = read_ground_truth(truth)
        table = parse_results(parsed, [result], "bbox", source="test")
        object.__setattr__(table, "scores", table.scores.astype(kind))
        ours = score(parsed, table, COCO)
        assert ours.true_positives.sum(0)[[28, 29, 30]].tolist() == [1, 1, 0]  # 0.29, 0.30, 0.31


def test_the_json_has_a_row_for_each_category_and_threshold() -> None:
    truth = make_truth(0)
    points = evaluate_results(make_results(0, truth), truth).to_dict()["operating_points"]
    assert len(points) == 1
    assert len(points[0]["categories"]) == len(truth["categories"])
    assert {len(category["at"]) for category in points[0]["categories"]} == {19}
