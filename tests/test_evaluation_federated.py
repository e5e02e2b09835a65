"""LVIS's rules: what is judged, what is excused, the two ways of choosing detections; against a slow reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from labeler.errors import Refused
from labeler.evaluation import LVIS, LVIS_FIXED, DetectionTable, Evaluation, evaluate_results, read_ground_truth, score
from labeler.evaluation.collector import BestPerCategory, best_per_category, best_per_image, judged
from tests.evaluation_reference import lvis_average_precision, mean
from tests.evaluation_scenes import make_federated, make_results, make_truth, plain_pycocotools

CAT, DOG = 1, 2


def one_image(**image: Any) -> dict[str, Any]:
    """One cat at (10, 10); the caller decides about dogs."""
    return {
        "images": [{"id": 5, "file_name": "5.jpg", "neg_category_ids": [], "not_exhaustive_category_ids": []} | image],
        "categories": [{"id": CAT, "name": "cat", "frequency": "f"}, {"id": DOG, "name": "dog", "frequency": "r"}],
        "annotations": [{"id": 1, "image_id": 5, "category_id": CAT, "bbox": [10, 10, 50, 50], "area": 2500}],
    }


def found(category_id: int, box: list[float], score: float, image_id: int = 5) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}


HIT = found(CAT, [10, 10, 50, 50], 0.5)
STRAY_CAT = found(CAT, [200, 200, 50, 50], 0.9)
STRAY_DOG = found(DOG, [200, 200, 50, 50], 0.9)


def counts(evaluation: Evaluation, category: int, rules: str = "LVIS") -> tuple[int, int]:
    """(true, false positives) of a category at the lowest threshold."""
    result = evaluation.score(rules)
    assert result is not None
    place = [c.id for c in evaluation.truth.categories].index(category)
    return int(result.true_positives[place, 0]), int(result.false_positives[place, 0])


def test_no_detections_at_all_is_an_ap_of_zero() -> None:
    evaluation = evaluate_results([], one_image())
    assert [s.summary()["AP"] for s in evaluation.scores] == [0.0, 0.0]
    assert [s.rules for s in evaluation.scores] == [LVIS, LVIS_FIXED]


def test_a_category_of_which_nothing_is_said_is_not_judged() -> None:
    evaluation = evaluate_results([HIT, STRAY_DOG], one_image())
    assert counts(evaluation, DOG) == (0, 0)


def test_a_category_verified_absent_is_judged() -> None:
    evaluation = evaluate_results([HIT, STRAY_DOG], one_image(neg_category_ids=[DOG]))
    assert counts(evaluation, DOG) == (0, 1)


def test_a_stray_of_a_marked_category_is_an_error_unless_it_is_not_exhaustively_marked() -> None:
    strict = evaluate_results([HIT, STRAY_CAT], one_image())
    loose = evaluate_results([HIT, STRAY_CAT], one_image(not_exhaustive_category_ids=[CAT]))
    assert counts(strict, CAT) == (1, 1)
    assert counts(loose, CAT) == (1, 0)
    assert strict.scores[0].summary()["AP"] == pytest.approx(0.5)
    assert loose.scores[0].summary()["AP"] == pytest.approx(1.0)


def test_frequency_groups_come_by_themselves() -> None:
    evaluation = evaluate_results([HIT], one_image())
    assert evaluation.groups == {"rare": [1], "frequent": [0]}
    assert evaluation.scores[0].summary(evaluation.groups["rare"])["AP"] is None  # no dog anywhere


def test_a_crowd_flag_means_nothing_to_lvis() -> None:
    truth = one_image()
    truth["annotations"][0]["iscrowd"] = 1
    assert counts(evaluate_results([HIT, HIT], truth), CAT) == (1, 1)


def test_an_ignored_object_is_neither_to_be_found_nor_an_error() -> None:
    truth = one_image()
    truth["annotations"][0]["ignore"] = 1
    evaluation = evaluate_results([HIT], truth)
    assert counts(evaluation, CAT) == (0, 0)
    assert evaluation.scores[0].summary()["AP"] is None


def test_a_confident_crowd_of_other_categories_pushes_out_of_standard_ap_but_not_of_fixed_ap() -> None:
    noise = [found(DOG, [200, 200, 50, 50], 0.9) for _ in range(300)]
    evaluation = evaluate_results([*noise, HIT], one_image())
    assert evaluation.scores[0].summary()["AP"] == 0.0
    assert evaluation.scores[1].summary()["AP"] == pytest.approx(1.0)


def test_places_are_taken_before_unjudged_detections_are_dropped() -> None:
    # 10,000 better cats in an image where nobody knows about cats: the one right cat is beyond the limit
    truth = one_image()
    truth["images"].append({**truth["images"][0], "id": 6, "file_name": "6.jpg"})
    noise = [found(CAT, [0, 0, 9, 9], 0.9, image_id=6) for _ in range(10_000)]
    assert evaluate_results([HIT, *noise], truth).scores[1].summary()["AP"] == 0.0
    assert evaluate_results([HIT, *noise[1:]], truth).scores[1].summary()["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(4))
def test_standard_and_fixed_ap_are_those_of_the_slow_reference(seed: int) -> None:
    truth = make_federated(seed, images=8, categories=7)
    results = make_results(seed, truth, strays=60 if seed == 0 else 12)
    evaluation = evaluate_results(results, truth)
    ids = [c.id for c in evaluation.truth.categories]
    for one, fixed in zip(evaluation.scores, (False, True), strict=True):
        expected = lvis_average_precision(truth, results, fixed=fixed)
        summary = one.summary()
        for size, table in expected.items():
            wanted = mean(table)
            assert summary[f"AP{size}"] == (None if wanted is None else pytest.approx(wanted, abs=1e-9))
        for members in evaluation.groups.values():
            wanted = mean(expected[""], {ids[place] for place in members})
            got = one.summary(members)["AP"]
            assert got == (None if wanted is None else pytest.approx(wanted, abs=1e-9))


def test_a_limit_an_image_that_bites_changes_the_standard_ap_as_in_the_reference() -> None:
    truth = make_federated(9, images=3, categories=5)
    results = make_results(9, truth, strays=0)
    rng = np.random.default_rng(9)
    for image in truth["images"]:
        for _ in range(400):
            category = int(rng.choice([c["id"] for c in truth["categories"]]))
            results.append(found(category, [*rng.uniform(0, 300, 2), 40.0, 40.0], float(rng.random()), image["id"]))
    scores = evaluate_results(results, truth).scores
    for one, fixed in zip(scores, (False, True), strict=True):
        wanted = mean(lvis_average_precision(truth, results, fixed=fixed)[""])
        assert one.summary()["AP"] == pytest.approx(wanted, abs=1e-9)
    assert scores[0].summary() != scores[1].summary()


@pytest.mark.parametrize("seed", [0, 1])
def test_where_everything_is_marked_lvis_is_coco(seed: int) -> None:
    truth = make_truth(seed, crowds=False)
    results = make_results(seed, truth)
    expected = plain_pycocotools(truth, results, "bbox").stats
    everything = [c["id"] for c in truth["categories"]]
    for image in truth["images"]:
        image |= {"neg_category_ids": everything, "not_exhaustive_category_ids": []}
    for one in evaluate_results(results, truth).scores:
        summary = one.summary()
        ours = [summary[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR", "ARs", "ARm", "ARl")]
        np.testing.assert_allclose(ours, expected[[0, 1, 2, 3, 4, 5, 8, 9, 10, 11]], rtol=0, atol=1e-12)


def test_lvis_rules_on_annotations_without_them_are_refused() -> None:
    with pytest.raises(Refused, match="neg_category_ids"):
        evaluate_results([], make_truth(0), rules="lvis")


def test_coco_rules_can_be_asked_for_on_lvis_annotations() -> None:
    evaluation = evaluate_results([HIT, STRAY_DOG], one_image(), rules="coco")
    assert counts(evaluation, DOG, "COCO") == (0, 1)
    assert [s.rules.name for s in evaluation.scores] == ["COCO"]


def table(image: list[int], category: list[int], scores: list[float]) -> DetectionTable:
    boxes = np.tile(np.arange(len(scores), dtype=np.float32)[:, None], (1, 4))
    return DetectionTable(np.array(image, np.int32), np.array(category, np.int32), np.array(scores, np.float32), boxes)


def test_the_best_of_nothing_is_nothing() -> None:
    assert len(best_per_image(DetectionTable.empty())) == 0
    assert len(BestPerCategory().table()) == 0
    assert len(judged(read_ground_truth(one_image()), DetectionTable.empty())) == 0


def test_of_equal_scores_the_first_stays_and_the_order_is_kept() -> None:
    rows = table([0, 0, 0, 1], [0, 1, 0, 0], [0.5, 0.5, 0.9, 0.1])
    assert best_per_image(rows, 2).boxes_xywh[:, 0].tolist() == [0, 2, 3]
    assert best_per_category(rows, 2).boxes_xywh[:, 0].tolist() == [0, 1, 2]


def test_a_stream_keeps_what_the_whole_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labeler.evaluation.collector._PRUNE_ROWS", 10)
    rng = np.random.default_rng(0)
    image, category = rng.integers(0, 9, 400), rng.integers(0, 5, 400)
    whole = table(image.tolist(), category.tolist(), rng.integers(0, 20, 400).tolist())  # many equal scores
    pool = BestPerCategory(7)
    for start in range(0, 400, 13):
        pool.add(whole[start : start + 13])
        assert sum(map(len, pool._parts)) <= 5 * 7 + 10 + 13 + 5 * 7
    expected = best_per_category(whole, 7)
    np.testing.assert_array_equal(pool.table().boxes_xywh, expected.boxes_xywh)


def test_ids_that_are_no_category_mark_nothing() -> None:
    parsed = read_ground_truth(one_image(neg_category_ids=[99], not_exhaustive_category_ids=[98]))
    assert parsed.federated is not None
    assert parsed.federated.negative.size == parsed.federated.not_exhaustive.size == 0
    assert score(parsed, DetectionTable.empty(), LVIS).summary()["AP"] == 0.0
