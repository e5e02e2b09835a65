"""AP and AR by COCO's rules: bit for bit pycocotools', and right by an independent slow reference."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from labeler.errors import Refused
from labeler.evaluation import COCO, DetectionTable, Score, read_ground_truth, score
from labeler.evaluation.average_precision import mean_precision
from labeler.evaluation.results import parse_results
from labeler.labels.detections import Detections
from tests.evaluation_reference import average_precision, mean
from tests.evaluation_scenes import SIDE, make_results, make_truth, plain_pycocotools, rectangle


def coco_score(truth: dict[str, Any], results: list[dict[str, Any]], kind: str = "bbox") -> Score:
    parsed = read_ground_truth(truth, masks=kind == "segm")
    return score(parsed, parse_results(parsed, results, kind, source="test"), COCO, kind)


def one_object(**changes: Any) -> dict[str, Any]:
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0}
    return {
        "images": [{"id": 1, "file_name": "1.jpg", "height": SIDE, "width": SIDE}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [annotation | changes],
    }


def found(box: list[float], score: float = 0.9) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 1, "bbox": box, "score": score}


def test_no_detections_at_all_is_an_ap_of_zero() -> None:
    summary = coco_score(one_object(), []).summary()
    assert (summary["AP"], summary["AR100"], summary["APm"]) == (0.0, 0.0, 0.0)
    assert summary["APs"] is None  # no small objects: nothing to say


def test_no_objects_at_all_is_no_ap_but_none() -> None:
    truth = one_object() | {"annotations": []}
    result = coco_score(truth, [found([10, 10, 40, 40])])
    assert set(result.summary().values()) == {None}
    assert result.false_positives[0, 0] == 1


def test_one_perfect_detection_is_an_ap_of_one() -> None:
    summary = coco_score(one_object(), [found([10, 10, 40, 40])]).summary()
    assert summary["AP"] == pytest.approx(1.0)
    assert summary["AR1"] == 1.0


def test_an_object_with_id_zero_can_be_found() -> None:
    # pycocotools takes the id 0 for "not matched"; labeler has IDs of its own
    result = coco_score(one_object(id=0), [found([10, 10, 40, 40])])
    assert result.summary()["AP"] == pytest.approx(1.0)


def test_a_second_box_on_the_same_object_is_an_error() -> None:
    result = coco_score(one_object(), [found([10, 10, 40, 40]), found([11, 10, 40, 40], 0.95)])
    assert result.true_positives[0, 0] == 1
    assert result.false_positives[0, 0] == 1


def test_a_crowd_takes_any_number_of_boxes_and_none_is_an_error() -> None:
    truth = one_object(iscrowd=1)
    truth["annotations"].append({**truth["annotations"][0], "id": 2, "iscrowd": 0, "bbox": [200, 200, 40, 40]})
    inside = [found([12 + i, 12, 10, 10]) for i in range(5)]
    result = coco_score(truth, [*inside, found([200, 200, 40, 40], 0.1)])
    assert result.summary()["AP"] == pytest.approx(1.0)
    assert result.objects.tolist() == [1]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_all_twelve_figures_are_those_of_pycocotools(seed: int, kind: str) -> None:
    truth = make_truth(seed)
    results = make_results(seed, truth, digits=1 if seed % 2 else None)  # odd seeds: many equal scores
    if kind == "segm":
        results = [
            {**{k: v for k, v in r.items() if k != "bbox"}, "segmentation": rectangle(r["bbox"])} for r in results
        ]
    expected = plain_pycocotools(truth, results, kind)
    ours = coco_score(truth, results, kind)
    stats = [-1.0 if value is None else value for value in ours.summary().values()]
    np.testing.assert_allclose(stats, expected.stats, rtol=0, atol=1e-12)
    assert 0.05 < stats[0] < 0.95  # the scenes decide something


@pytest.mark.parametrize("seed", [0, 1])
def test_each_category_area_and_threshold_is_that_of_pycocotools(seed: int) -> None:
    truth = make_truth(seed)
    results = make_results(seed, truth, digits=2)
    expected = plain_pycocotools(truth, results, "bbox").eval
    ours = coco_score(truth, results)
    precision = expected["precision"][..., -1].mean(1).transpose(1, 2, 0)  # (categories, areas, thresholds), -1: none
    recall = expected["recall"].transpose(1, 2, 0, 3)
    np.testing.assert_allclose(np.nan_to_num(ours.precision, nan=-1), precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.nan_to_num(ours.recall, nan=-1), recall, rtol=0, atol=1e-12)


def test_more_than_a_hundred_boxes_of_a_category_in_an_image_are_cut_as_pycocotools_cuts_them() -> None:
    truth = make_truth(3, images=2, categories=2)
    results = make_results(3, truth, strays=0)
    rng = np.random.default_rng(0)
    for image in truth["images"]:
        for _ in range(250):
            x, y = rng.uniform(0, 300, 2)
            stray = {"image_id": image["id"], "category_id": truth["categories"][0]["id"], "bbox": [x, y, 60.0, 60.0]}
            results.append({**stray, "score": float(rng.random())})
    expected = plain_pycocotools(truth, results, "bbox")
    stats = [-1.0 if v is None else v for v in coco_score(truth, results).summary().values()]
    np.testing.assert_allclose(stats, expected.stats, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", [10, 11, 12])
def test_ap_is_that_of_the_slow_reference(seed: int) -> None:
    truth = make_truth(seed, images=6, categories=4)
    results = make_results(seed, truth)
    expected = average_precision(truth, results)
    summary = coco_score(truth, results).summary()
    wanted = {f"AP{size}": mean(table) for size, table in expected.items()}
    wanted |= {f"AP{round(100 * iou)}": mean(expected[""], iou=iou) for iou in (0.5, 0.75)}
    for name, value in wanted.items():
        assert summary[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name


def test_a_group_is_the_mean_over_its_categories_with_objects() -> None:
    truth = make_truth(5)
    ours = coco_score(truth, make_results(5, truth))
    each = [ours.summary([place])["AP"] for place in range(len(truth["categories"]))]
    with_objects = [value for value in each if value is not None]
    assert len(with_objects) == len(each) - 1  # one category has none
    assert ours.summary(range(len(each)))["AP"] == pytest.approx(np.mean(with_objects))
    assert ours.summary([])["AP"] is None


def test_the_order_of_images_and_categories_in_the_file_does_not_matter() -> None:
    truth = make_truth(6)
    results = make_results(6, truth, digits=1)
    turned = {name: list(reversed(truth[name])) for name in ("images", "categories")} | {
        "annotations": truth["annotations"]
    }
    assert coco_score(turned, results).summary() == coco_score(truth, results).summary()


def test_boxes_of_a_detector_score_like_the_same_boxes_in_a_results_file() -> None:
    truth = make_truth(7)
    results = make_results(7, truth)
    for entry in results:  # values that float32 holds exactly
        entry["bbox"] = [round(v * 4) / 4 for v in entry["bbox"]]
        entry["score"] = round(entry["score"] * 1024) / 1024
    by_image: dict[int, Detections] = {}
    for image in truth["images"]:
        mine = [r for r in results if r["image_id"] == image["id"]]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (r["bbox"] for r in mine)]
        by_image[image["id"]] = Detections.of(boxes, [r["score"] for r in mine], [r["category_id"] for r in mine])
    parsed = read_ground_truth(truth)
    ours = score(parsed, DetectionTable.of(parsed, by_image), COCO)
    assert ours.summary() == pytest.approx(coco_score(truth, results).summary())


def test_detections_of_unknown_categories_are_left_out_and_of_unknown_images_refused() -> None:
    parsed = read_ground_truth(one_object())
    box, far = [[10, 10, 50, 50]], Detections.of([[0, 0, 9, 9]], [0.5], [77])
    table = DetectionTable.of(parsed, [(1, Detections.concat([Detections.of(box, [0.5], [1]), far]))])
    assert table.category.tolist() == [0]
    with pytest.raises(Refused, match="image id 2"):
        DetectionTable.of(parsed, {2: far})


def test_results_are_not_changed_by_being_scored() -> None:
    truth = make_truth(8)
    results = make_results(8, truth)
    before = copy.deepcopy((truth, results))
    coco_score(truth, results)
    assert (truth, results) == before


def test_mean_precision_reads_the_best_precision_at_or_beyond_each_recall() -> None:
    # hit, error, hit of 2 objects: precision 1 up to recall 1/2 (51 of 101 points), 2/3 beyond (50 points)
    true = np.array([True, False, True])
    assert mean_precision(true, ~true, 2) == pytest.approx((51 + 50 * 2 / 3) / 101)
    nothing = np.zeros(0, np.bool_)
    assert mean_precision(nothing, nothing, 2) == 0.0
