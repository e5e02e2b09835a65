"""The matching is pycocotools' own, one image and one rule at a time; whole evaluations are compared elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from labeler.truth import matching
from labeler.truth.matching import AREAS, IOU_THRESHOLDS, Matches, Side, match, match_greedily, overlap


def make_side(rng: np.random.Generator, images: int, most: int, *, objects: bool) -> Side:
    """Few places and sizes, so that many overlaps are equal and others exactly a threshold."""
    counts = rng.integers(0, most + 1, images)
    n = int(counts.sum())
    low, size = rng.integers(0, 6, (n, 2)) * 8.0, rng.choice([20.0, 40.0, 100.0], (n, 2))
    crowd = objects & (rng.random(n) < 0.2)
    ignore = objects & (rng.random(n) < 0.2) | crowd
    areas = size.prod(1) * (rng.choice([0.4, 1.0], n) if objects else 1.0)
    image = np.repeat(np.arange(images), counts).astype(np.int32)
    scores = np.zeros(n) if objects else rng.choice([0.2, 0.5, 0.9], n)
    order = np.lexsort((-scores, image))
    boxes = np.concatenate([low, size], 1)
    return Side(image, boxes[order], areas[order], scores[order], crowd[order], ignore[order])


def by_cocoeval(objects: Side, detections: Side, image: int, area: tuple[float, float]) -> dict[str, Any]:
    """What `evaluateImg` says of one image; ids count from 1, as 0 means "not matched" there."""
    here, there = np.flatnonzero(objects.image == image), np.flatnonzero(detections.image == image)
    evaluator = COCOeval(iouType="bbox")
    evaluator.params.iouThrs = IOU_THRESHOLDS
    evaluator._gts = {
        (0, 0): [
            {"id": 1 + n, "area": objects.areas[n], "iscrowd": int(objects.crowd[n]), "ignore": int(objects.ignore[n])}
            for n in here
        ]
    }
    scores = detections.scores
    evaluator._dts = {(0, 0): [{"id": 1 + n, "score": scores[n], "area": detections.areas[n]} for n in there]}
    crowd = objects.crowd[here].astype(np.uint8)
    evaluator.ious = {(0, 0): overlap(detections.regions[there], objects.regions[here], crowd)}
    result: dict[str, Any] = evaluator.evaluateImg(0, 0, area, len(there))
    return result


def whole(matches: Matches, detections: int) -> tuple[Any, Any]:
    """(matched, to an ignored object), each (areas, thresholds, detections)."""
    both = np.zeros((2, len(AREAS), len(IOU_THRESHOLDS), detections), np.bool_)
    both[0][..., matches.rows], both[1][..., matches.rows] = matches.matched, matches.to_ignored
    return both[0], both[1]


@pytest.mark.parametrize("at_once", [1, 60, 1 << 15])
@pytest.mark.parametrize("seed", range(6))
def test_every_image_area_and_threshold_is_matched_as_pycocotools_does(
    seed: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "_AT_ONCE", at_once)  # alone, few together, all together: the padding is not seen
    monkeypatch.setattr(matching, "_HELD", 4 * at_once)
    rng = np.random.default_rng(seed)
    objects, detections = make_side(rng, 40, 6, objects=True), make_side(rng, 40, 12, objects=False)
    matched, to_ignored = whole(match(objects, detections), len(detections.image))
    compared = 0
    for image in np.intersect1d(objects.image, detections.image):
        there = detections.image == image
        for place, area in enumerate(AREAS.values()):
            expected = by_cocoeval(objects, detections, image, area)
            np.testing.assert_array_equal(matched[place][:, there], expected["dtMatches"] > 0)
            ignored = (expected["dtMatches"] > 0) & expected["dtIgnore"]
            np.testing.assert_array_equal(to_ignored[place][:, there], ignored)
            compared += int(matched[place][:, there].sum())
    alone = ~np.isin(detections.image, objects.image)
    assert not matched[..., alone].any()
    assert compared > 400
    assert to_ignored.any()


def greedy(overlaps: Any, *, ignore: Any = None, crowd: Any = None, at: float = 0.5) -> list[int]:
    overlaps = np.array(overlaps, np.float64)
    flags = [np.zeros(overlaps.shape[1], np.bool_) if given is None else np.array(given) for given in (ignore, crowd)]
    found: list[int] = match_greedily(overlaps[None], flags[0][None], flags[1][None], [at])[0, 0].tolist()
    return found


def test_the_first_takes_what_it_overlaps_most_and_the_next_what_is_left() -> None:
    assert greedy([[0.6, 0.8], [0.7, 0.9], [0.9, 0.9]]) == [1, 0, -1]


def test_of_equal_overlaps_the_last_is_taken() -> None:
    assert greedy([[0.7, 0.7, 0.6]]) == [1]


def test_what_does_not_count_is_taken_only_where_nothing_that_counts_is_free() -> None:
    assert greedy([[0.9, 0.5], [0.9, 0.6], [0.9, 0.6]], ignore=[True, False]) == [1, 0, -1]


def test_a_crowd_stays_free() -> None:
    assert greedy([[0.9], [0.5], [0.4]], ignore=[True], crowd=[True]) == [0, 0, -1]


def test_a_threshold_of_one_admits_what_rounding_made_a_little_less() -> None:
    assert greedy([[1 - 1e-11]], at=1.0) == [0]
    assert greedy([[1 - 1e-9]], at=1.0) == [-1]


def test_nothing_is_taken_where_there_is_nothing() -> None:
    assert greedy(np.zeros((2, 0))) == [-1, -1]
    assert greedy(np.zeros((0, 2))) == []
