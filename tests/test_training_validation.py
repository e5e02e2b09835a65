"""Measurements while training: AP, recall and precision, separately for trained and held-out names."""

from __future__ import annotations

import numpy as np
import pytest

from labeler.labels.detections import Detections
from labeler.training.shapes import HELD_OUT, SEEN
from labeler.training.validation import ValidationImage, ValidationSet, measure, shapes_validation
from labeler.vocabulary import Category, Vocabulary

SEEN_ID, OTHER_ID, HELD_OUT_ID = SEEN[0].category_id, SEEN[1].category_id, HELD_OUT[0].category_id
BOXES = np.asarray([[10, 10, 40, 40], [60, 10, 90, 40], [10, 60, 40, 90]], np.float32)


def _one_image(ids: list[int]) -> ValidationSet:
    image = ValidationImage(np.zeros((100, 100, 3), np.uint8), BOXES[: len(ids)], np.asarray(ids, np.int64))
    vocabulary = Vocabulary("v", tuple(Category(c.category_id, c.name, (c.name,)) for c in (*SEEN[:2], HELD_OUT[0])))
    groups = {"seen": frozenset((SEEN_ID, OTHER_ID)), "held_out": frozenset((HELD_OUT_ID,))}
    return ValidationSet((image,), vocabulary, groups)


def test_nothing_to_find_and_nothing_found_measures_nothing() -> None:
    assert measure(_one_image([]), [Detections.empty()]) == {}


def test_nothing_found_is_no_recall() -> None:
    assert measure(_one_image([SEEN_ID]), [Detections.empty()]) == {"ap_seen": 0.0, "recall_seen": 0.0}


def test_groups_are_measured_apart() -> None:
    found = Detections.of(BOXES, [0.9, 0.2, 0.8], [SEEN_ID, OTHER_ID, SEEN_ID])  # the third is wrong
    measured = measure(_one_image([SEEN_ID, OTHER_ID, HELD_OUT_ID]), [found])
    assert measured["recall_seen"] == 0.5, "0.2 is below the score that counts"
    assert measured["precision_seen"] == 0.5
    assert measured["ap_seen"] == pytest.approx(1.0), "AP looks at every score"
    assert measured["recall_held_out"] == measured["ap_held_out"] == 0
    assert "precision_held_out" not in measured


def test_drawn_scenes_are_the_same_every_time_and_have_both_groups() -> None:
    first, again = shapes_validation(4, 6), shapes_validation(4, 6)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first.images, again.images, strict=True))
    present = {int(i) for image in first.images for i in image.category_ids}
    assert present & first.groups["seen"]
    assert present & first.groups["held_out"]
    assert len(first.vocabulary) == len(first.groups["seen"] | first.groups["held_out"]) == 80
