"""The bootstrap over images: each draw is the AP of a data set with repeated images."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from labeler.evaluation import COCO, read_ground_truth, score
from labeler.evaluation.average_precision import judge
from labeler.evaluation.intervals import draw_images, drawn_precision, spread
from labeler.evaluation.results import parse_results
from tests.evaluation_scenes import make_results, make_truth


def drawn(truth: dict[str, Any], results: list[dict[str, Any]], weights: Any) -> np.ndarray:
    """(categories, draws)."""
    parsed = read_ground_truth(truth)
    table = parse_results(parsed, results, "bbox", source="test")
    return np.array([drawn_precision(one, COCO, np.asarray(weights, float)) for one in judge(parsed, table, COCO)])


def plain(truth: dict[str, Any], results: list[dict[str, Any]]) -> np.ndarray:
    """(categories,) AP."""
    parsed = read_ground_truth(truth)
    return score(parsed, parse_results(parsed, results, "bbox", source="test"), COCO).precision[:, 0].mean(1)


def repeated(truth: dict[str, Any], results: list[dict[str, Any]], times: list[int]) -> tuple[dict[str, Any], Any]:
    """The same with each image, by ascending ID, repeated under other IDs."""
    images, annotations, found = [], [], []
    for image, count in zip(sorted(truth["images"], key=lambda image: image["id"]), times, strict=True):
        for copy_ in range(count):
            new = 1000 * image["id"] + copy_
            images.append({**image, "id": new, "file_name": f"{new}.jpg"})
            for annotation in truth["annotations"]:
                if annotation["image_id"] == image["id"]:
                    annotations.append({**annotation, "image_id": new, "id": len(annotations) + 1})
            found += [{**one, "image_id": new} for one in results if one["image_id"] == image["id"]]
    return {**copy.deepcopy(truth), "images": images, "annotations": annotations}, found


@pytest.mark.parametrize("seed", range(4))
def test_with_every_image_once_it_is_the_ap_of_the_evaluation(seed: int) -> None:
    truth = make_truth(seed)
    results = make_results(seed, truth)
    np.testing.assert_allclose(drawn(truth, results, np.ones((1, 12)))[:, 0], plain(truth, results), atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_a_draw_is_the_data_set_with_its_images_repeated(seed: int) -> None:
    truth = make_truth(seed)
    results = make_results(seed, truth)
    weights = draw_images(12, draws=5, seed=seed)
    assert weights.sum(1).tolist() == [12] * 5
    found = drawn(truth, results, weights)
    for draw, times in enumerate(weights.astype(int).tolist()):
        expected = plain(*repeated(truth, results, times))
        np.testing.assert_allclose(found[:, draw], expected, atol=1e-9)


def test_the_interval_is_that_of_the_middle_of_the_draws_and_unknown_where_most_have_no_object() -> None:
    assert spread(np.arange(201.0)) == pytest.approx((5.0, 195.0))
    assert spread(np.array([np.nan, 1.0, 2.0, 3.0])) == pytest.approx((1.05, 2.95))
    assert np.isnan(spread(np.array([np.nan, np.nan, 2.0]))).all()
