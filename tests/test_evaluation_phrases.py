"""Phrases judged alone and together: as a category of their own would be, and where their best boxes are."""

from __future__ import annotations

from typing import Any

import numpy as np

from labeler.evaluation import COCO, LVIS_FIXED, DetectionTable, read_ground_truth, score
from labeler.evaluation.collector import judged
from labeler.evaluation.phrases import Best, Group, PhraseJudge
from labeler.labels.detections import Detections
from tests.evaluation_scenes import make_federated, make_results, make_truth

BOXES = {"a": [10, 10, 20, 20], "b": [50, 10, 20, 20], "c": [100, 10, 20, 20], "d": [200, 200, 20, 20]}


def truth_of(*objects: tuple[int, str], **more: Any) -> Any:
    """Objects (category, box) of one image; categories 1 cat, 2 dog, 3 cow."""
    annotations = [
        {"id": number, "image_id": 1, "category_id": category, "bbox": BOXES[box], "area": 400, "iscrowd": 0}
        for number, (category, box) in enumerate(objects, 1)
    ]
    return read_ground_truth(
        {
            "images": [{"id": 1, "file_name": "1.jpg", "height": 400, "width": 400, **more}],
            "categories": [{"id": n, "name": name} for n, name in enumerate(("cat", "dog", "cow"), 1)],
            "annotations": annotations,
        }
    )


def found(*boxes: tuple[int, str, float]) -> dict[int, Detections]:
    """(phrase, box, score) of the one image."""
    corners = [[x, y, x + w, y + h] for x, y, w, h in (BOXES[box] for _, box, _ in boxes)]
    return {0: Detections.of(corners, [score for *_, score in boxes], [phrase for phrase, *_ in boxes])}


def test_the_best_boxes_are_as_many_as_the_objects_and_it_is_said_on_what_they_are() -> None:
    truth = truth_of((1, "a"), (1, "b"), (1, "d"), (1, "d"), (2, "c"))
    phrase = [(0, "a", 0.9), (0, "a", 0.85), (0, "c", 0.8), (0, "b", 0.1), (0, "d", 0.05)]
    judge = PhraseJudge(truth, found(*phrase), phrases=1, nms_iou=1.0)
    (one,) = judge.figures([Group(0, (0,))])
    assert (one.objects, one.boxes) == (4, 5)
    assert one.best == Best(boxes=4, right=2, again=1, others=(("dog", 1),), nothing=0)
    assert one.recall == 0.75
    low, high = one.recall_interval
    assert (round(low, 3), round(high, 3)) == (0.301, 0.954)  # Wilson's, of 3 in 4
    (alone,) = PhraseJudge(truth, found((0, "c", 0.8)), phrases=1, nms_iou=1.0).figures([Group(2, (0,))])
    assert np.isnan(alone.ap)
    assert alone.objects == 0


def test_boxes_of_one_object_by_two_phrases_are_one_box_of_both_together() -> None:
    truth = truth_of((1, "a"), (1, "b"), (2, "c"))
    judge = PhraseJudge(
        truth, found((0, "a", 0.9), (1, "a", 0.8), (1, "b", 0.7), (1, "c", 0.3)), phrases=2, nms_iou=0.7
    )
    one, two = judge.figures([Group(0, (0,)), Group(0, (1,))])
    (both,) = judge.figures([Group(0, (0, 1))])
    assert (one.boxes, two.boxes, both.boxes) == (1, 3, 3)
    assert (one.recall, both.recall, round(both.ap, 9)) == (0.5, 1.0, 1.0)
    assert both.best == Best(2, 2, 0, (), 0)
    assert both.surely_better(one)
    assert not one.surely_better(both)
    assert not both.surely_better(both)


def test_figures_are_those_of_an_evaluation_of_the_same_boxes() -> None:
    for plain, rules in ((make_truth(5), COCO), (make_federated(5), LVIS_FIXED)):
        truth = read_ground_truth(plain)
        place = {category.id: n for n, category in enumerate(truth.categories)}
        by_image: dict[int, list[Any]] = {}
        for one in make_results(5, plain):
            by_image.setdefault(one["image_id"], []).append(one)
        rows = {
            int(np.searchsorted(truth.image_ids, image)): Detections.of(
                [[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in here)],
                [one["score"] for one in here],
                [place[one["category_id"]] for one in here],
            )
            for image, here in by_image.items()
        }
        judge = PhraseJudge(truth, rows, phrases=len(place), nms_iou=1.0)
        figures = judge.figures([Group(n, (n,)) for n in reversed(range(len(place)))])[::-1]
        by_id = {int(truth.image_ids[image]): one for image, one in rows.items()}
        named = {i: Detections.of(d.boxes, d.scores, [truth.categories[c].id for c in d.category_ids])
                 for i, d in by_id.items()}  # fmt: skip
        expected = score(truth, judged(truth, DetectionTable.of(truth, named)), rules)
        np.testing.assert_allclose([one.ap for one in figures], expected.precision[:, 0].mean(1), atol=1e-9)
        assert judge.rules is rules
        assert [one.objects for one in figures] == expected.objects.tolist()
        recalls = [one.recall for one in figures]
        np.testing.assert_allclose(recalls, expected.recall[:, 0, 0, -1], atol=1e-12)
        again = judge.figures([Group(2, (2,)), Group(2, (3,)), Group(2, ())])  # one category for several groups
        np.testing.assert_allclose(again[0].ap, figures[2].ap, atol=1e-12)
        assert again[1].objects == again[2].objects == figures[2].objects
        assert again[2].boxes == 0


def test_a_box_that_the_rules_do_not_judge_is_not_among_the_best() -> None:
    absent = {"neg_category_ids": [], "not_exhaustive_category_ids": [1]}
    truth = truth_of((1, "a"), **absent)
    (one,) = PhraseJudge(truth, found((0, "b", 0.9), (0, "a", 0.5)), phrases=1, nms_iou=1.0).figures([Group(0, (0,))])
    assert (one.boxes, round(one.ap, 9), one.best) == (1, 1.0, Best(1, 1, 0, (), 0))
