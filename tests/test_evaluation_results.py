"""Results files whose entries are not all alike, and those that are wrong."""

from __future__ import annotations

from typing import Any

import pytest

from labeler.errors import Refused
from labeler.evaluation import evaluate_results

MASK = {"size": [50, 60], "counts": [51, 8, 42, 8, 2891]}
BOX = [1, 1, 2, 8]
ENTRY = {"image_id": 7, "category_id": 3, "score": 0.9}
TRUTH: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "7.jpg", "height": 50, "width": 60}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": BOX, "segmentation": MASK, "iscrowd": 0}],
}


@pytest.mark.parametrize("masked_first", [True, False])
def test_masks_are_judged_if_any_entry_has_one(masked_first: bool) -> None:
    entries = [ENTRY | {"bbox": BOX, "segmentation": MASK}, ENTRY | {"bbox": [30, 30, 5, 5], "score": 0.1}]
    found = evaluate_results(entries if masked_first else entries[::-1], TRUTH)
    assert [score.kind for score in found.scores] == ["bbox", "segm"]
    assert [score.summary()["AP"] for score in found.scores] == pytest.approx([1.0, 1.0])
    assert any("1 of 2 detections have none and count for boxes only" in note for note in found.protocol["notes"])


def test_masks_alone_and_boxes_alone_are_judged_as_what_they_are() -> None:
    assert [s.kind for s in evaluate_results([ENTRY | {"segmentation": MASK}], TRUTH).scores] == ["segm"]
    assert [s.kind for s in evaluate_results([ENTRY | {"bbox": BOX}], TRUTH).scores] == ["bbox"]
    assert [s.kind for s in evaluate_results([ENTRY | {"bbox": BOX, "segmentation": []}], TRUTH).scores] == ["bbox"]


@pytest.mark.parametrize(
    ("entries", "place"),
    [
        ([ENTRY | {"bbox": BOX}, ENTRY | {"segmentation": MASK}], "[1]: bbox must be"),
        ([ENTRY | {"segmentation": MASK}, ENTRY], "[1]: no segmentation"),
        (
            [
                ENTRY | {"category_id": 9, "segmentation": MASK},
                ENTRY | {"segmentation": {"size": [9, 9], "counts": "1"}},
            ],
            "[1]: the mask of image 7",
        ),
    ],
)
def test_a_bad_entry_is_named_by_its_own_position(entries: list[Any], place: str) -> None:
    with pytest.raises(Refused, match="1 bad entries") as caught:
        evaluate_results(entries, TRUTH)
    assert caught.value.problems[0].startswith(place)
