"""Where a COCO export puts its files, and how it numbers categories: trainers and tools open it as it is."""

from __future__ import annotations

from collections.abc import Sequence

from labeler.errors import Refused
from labeler.exports.splits import ALL
from labeler.vocabulary import Category

FLAT, COCO, ROBOFLOW = LAYOUTS = ("flat", "coco", "roboflow")
VOCABULARY, ZERO_BASED, ONE_BASED = CATEGORY_IDS = ("vocabulary", "zero-based", "one-based")
_ROBOFLOW_FOLDERS = {ALL: "train", "train": "train", "val": "valid", "valid": "valid", "test": "test"}


def require_splits(layout: str, splits: Sequence[str]) -> None:
    """Raises Refused where the layout has no place for a split."""
    if layout != ROBOFLOW:
        return
    odd = [name for name in splits if name not in _ROBOFLOW_FOLDERS]
    if odd or {"val", "valid"} <= set(splits):
        wrong = odd[0] if odd else "val and valid"
        raise Refused(f"--layout roboflow has the splits train, val (its folder is valid) and test, but not {wrong}")


def label_file(layout: str, split: str) -> str:
    """Return the path of a split's JSON in the export."""
    if layout == ROBOFLOW:
        return f"{_ROBOFLOW_FOLDERS[split]}/_annotations.coco.json"
    return f"annotations/instances_{_subset(split)}.json"


def image_folder(layout: str, split: str) -> str:
    """Return the folder of a split's images, which is flat."""
    return _ROBOFLOW_FOLDERS[split] if layout == ROBOFLOW else f"images/{_subset(split)}"


def _subset(split: str) -> str:
    return "default" if split == ALL else split  # as CVAT and datumaro call it


def numbers(categories: Sequence[Category], category_ids: str) -> dict[int, int]:
    """Return the id in the export of each category: its own, or its position from 0 or from 1."""
    first = {ZERO_BASED: 0, ONE_BASED: 1}
    if category_ids == VOCABULARY:
        return {category.id: category.id for category in categories}
    return {category.id: place for place, category in enumerate(categories, first[category_ids])}
