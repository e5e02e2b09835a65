"""Images with more boxes than a tool bears: how they are cut into overlapping crops, and how corrected crops merge.

A crop has a core and a margin. The cores tile the image without overlap. A box belongs to the crop in whose core its
center lies, and is handed out there alone. The margin is as wide as it takes for each box of the crop to be in it
whole. So a crop overlaps its neighbors, and a reviewer sees objects in its margin that belong to them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.labels.boxes import iou

Floats = npt.NDArray[np.float64]
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the image; right and bottom are outside
_MARGIN = 16  # pixels at least, so that an object at the core's edge is not cut off
_SAME_OBJECT = 0.5  # overlap from which on two boxes that two reviewers drew are one object
_KEYS = ("number", "count", "window", "core")


@dataclass(frozen=True)
class TaskCrop:
    """One crop of an image.

    Attributes:
        number, count: its number from 0, and how many crops the image has.
        window: the part of the image that the crop shows.
        core: the part of it that no other crop's core has.
    """

    number: int
    count: int
    window: Rectangle
    core: Rectangle

    @property
    def width(self) -> int:
        return self.window[2] - self.window[0]

    @property
    def height(self) -> int:
        return self.window[3] - self.window[1]

    @property
    def suffix(self) -> str:
        """Return what the names of its files have behind the image's."""
        return f"-crop-{self.number:02d}"

    def to_json(self) -> dict[str, Any]:
        """Return the value of `labeler_crop` in a task."""
        return {"number": self.number, "count": self.count, "window": [*self.window], "core": [*self.core]}

    @staticmethod
    def of_json(value: object) -> TaskCrop:
        """Read `labeler_crop` of a task. Raises ValueError if it is not such a value."""
        if not isinstance(value, Mapping) or sorted(value) != sorted(_KEYS):
            raise ValueError(f"labeler_crop has {', '.join(_KEYS)}; got {str(value)[:80]}")
        window, core = _rectangle(value["window"]), _rectangle(value["core"])
        number, count = value["number"], value["count"]
        inside = window[0] <= core[0] and window[1] <= core[1] and core[2] <= window[2] and core[3] <= window[3]
        if type(number) is not int or type(count) is not int or not 0 <= number < count or not inside:
            raise ValueError(f"labeler_crop is not a crop: {str(value)[:80]}")
        return TaskCrop(number, count, window, core)


def cut_into_crops(
    boxes_xyxy: npt.ArrayLike, *, width: int, height: int, most: int
) -> list[tuple[TaskCrop, npt.NDArray[np.intp]]]:
    """Cut an image so that each crop has at most `most` boxes; each box is in exactly one, and is in it whole.

    The image is halved at the median of its boxes' centers, across its longer side, then each half, and so on. A crop
    has more than `most` boxes only if their centers are in one pixel.

    Args:
        boxes_xyxy: (n, 4) pixels, within the image.

    Returns:
        The crops by number, each with the places of its boxes, rising; one crop, the whole image, for few boxes.
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    cores = _cores(centers, np.arange(len(boxes)), (0, 0, width, height), most)
    return [
        (TaskCrop(number, len(cores), _window(boxes[places], core, width, height, whole=len(cores) == 1), core), places)
        for number, (core, places) in enumerate(cores)
    ]


def _cores(
    centers: Floats, places: npt.NDArray[np.intp], core: Rectangle, most: int
) -> list[tuple[Rectangle, npt.NDArray[np.intp]]]:
    """The cores that a part of the image is cut into, each with its boxes."""
    if len(places) <= most:
        return [(core, places)]
    sides = (core[2] - core[0], core[3] - core[1])
    for axis in sorted((0, 1), key=lambda axis: -sides[axis]):
        at = _halve(centers[places, axis], core[axis], core[axis + 2])
        if at is None:
            continue
        before = centers[places, axis] < at
        low, high = list(core), list(core)
        low[axis + 2] = high[axis] = at
        return [
            *_cores(centers, places[before], (low[0], low[1], low[2], low[3]), most),
            *_cores(centers, places[~before], (high[0], high[1], high[2], high[3]), most),
        ]
    return [(core, places)]


def _halve(values: Floats, low: int, high: int) -> int | None:
    """The pixel between `low` and `high` that cuts the values most evenly; None if all are on one side of any."""
    middle = float(np.median(values))
    cuts = {at for at in (math.floor(middle), math.ceil(middle), *_edges(values)) if low < at < high}
    counts = {at: int((values < at).sum()) for at in cuts}
    useful = [at for at in sorted(cuts) if 0 < counts[at] < len(values)]
    return min(useful, key=lambda at: abs(2 * counts[at] - len(values)), default=None)


def _edges(values: Floats) -> tuple[int, int]:
    """The first pixel border above the least value, and the last one at or below the greatest."""
    return math.floor(values.min()) + 1, math.floor(values.max())


def _window(boxes: Floats, core: Rectangle, width: int, height: int, *, whole: bool) -> Rectangle:
    if whole:
        return 0, 0, width, height
    low = np.minimum([core[0] - _MARGIN, core[1] - _MARGIN], np.floor(boxes[:, :2].min(0, initial=np.inf)))
    high = np.maximum([core[2] + _MARGIN, core[3] + _MARGIN], np.ceil(boxes[:, 2:].max(0, initial=-np.inf)))
    return max(0, int(low[0])), max(0, int(low[1])), min(width, int(high[0])), min(height, int(high[1]))


@dataclass(frozen=True)
class CorrectedCrop:
    """One crop with the boxes that a reviewer left in it.

    Attributes:
        boxes: (n, 4) xyxy in pixels of the crop, float64.
        ids: (n,) each box's own id as it was handed out, or None for a box that a person drew.
    """

    crop: TaskCrop
    boxes: Floats
    ids: Sequence[str | None]


@dataclass(frozen=True)
class MergedImage:
    """The boxes of one image.

    Attributes:
        boxes: (n, 4) xyxy in pixels of the image, float64.
        ids: (n,) as in the crops.
        sources: (n,) (position among the crops given, position among its boxes) of each, for what else it carries.
        doubled: sources of drawn boxes that are excluded, because another crop has a box of the same object.
        missing: numbers of the image's crops that did not come back: nothing is known of their boxes.
    """

    boxes: Floats
    ids: list[str | None]
    sources: list[tuple[int, int]]
    doubled: list[tuple[int, int]]
    missing: list[int]


def merge_crops(corrected: Sequence[CorrectedCrop]) -> MergedImage:
    """Put the corrected crops of one image together: the inverse of `cut_into_crops`.

    Boxes are shifted by their crop's origin. Those that were handed out, and come back unedited, are equal to the bit.
    They all stay, and so do boxes that a person drew with their center in the crop's core. A box drawn in the margin,
    where the object belongs to another crop, stays unless another crop has a box there already (IoU 0.5 or more,
    whatever the category). So an object that two reviewers drew is there once, and one that only the neighbor drew is
    not lost.

    Args:
        corrected: the crops that came back, in any order; the result is by crop number, then as in each crop.

    Raises:
        ValueError: no crop, a crop or a box's id twice, or crops that are not of one image.
    """
    order = sorted(range(len(corrected)), key=lambda place: corrected[place].crop.number)
    _require_one_image([corrected[place].crop for place in order])
    shifted = {place: _shifted(corrected[place]) for place in order}
    entries = [(place, one) for place in order for one in range(len(corrected[place].ids))]
    _require_each_once(corrected[place].ids[one] for place, one in entries)
    safe = [entry for entry in entries if _belongs(corrected[entry[0]], shifted[entry[0]], entry[1])]
    kept, doubled, firm = list(safe), [], set(safe)
    for place, one in entries:
        if (place, one) in firm:
            continue
        others = [shifted[other][at] for other, at in kept if other != place]
        if others and (iou(shifted[place][one], np.array(others)) >= _SAME_OBJECT).any():
            doubled.append((place, one))
        else:
            kept.append((place, one))
    rank = {place: number for number, place in enumerate(order)}
    kept.sort(key=lambda entry: (rank[entry[0]], entry[1]))
    there = {corrected[place].crop.number for place in order}
    return MergedImage(
        np.array([shifted[place][one] for place, one in kept], np.float64).reshape(-1, 4),
        [corrected[place].ids[one] for place, one in kept],
        kept,
        doubled,
        [number for number in range(corrected[0].crop.count) if number not in there],
    )


def _belongs(corrected: CorrectedCrop, shifted: Floats, place: int) -> bool:
    """Return whether a box stays in any case: it was handed out, or its center is in the crop's core."""
    if corrected.ids[place] is not None:
        return True
    (x, y), (left, top, right, bottom) = (shifted[place, :2] + shifted[place, 2:]) / 2, corrected.crop.core
    return bool(left <= x < right and top <= y < bottom)


def _shifted(corrected: CorrectedCrop) -> Floats:
    boxes = np.asarray(corrected.boxes, np.float64).reshape(-1, 4)
    if len(boxes) != len(corrected.ids):
        raise ValueError(f"a crop has {len(boxes)} boxes and {len(corrected.ids)} ids")
    left, top = corrected.crop.window[:2]
    moved: Floats = boxes + np.array([left, top, left, top], np.float64)
    return moved


def _require_one_image(crops: Sequence[TaskCrop]) -> None:
    if not crops:
        raise ValueError("an image without a crop cannot be merged")
    if len({crop.count for crop in crops}) > 1:
        raise ValueError("crops of different images cannot be merged: they have other numbers of crops")
    numbers = [crop.number for crop in crops]
    if twice := [number for number in numbers if numbers.count(number) > 1]:
        raise ValueError(f"crop {twice[0]} of an image came back twice")


def _require_each_once(ids: Iterable[str | None]) -> None:
    seen = set[str]()
    for id_ in ids:
        if id_ is not None and id_ in seen:
            raise ValueError(f"box {id_} came back twice")
        seen |= {id_} if id_ is not None else set()


def _rectangle(value: object) -> Rectangle:
    if not isinstance(value, Sequence) or len(value) != 4 or not all(type(side) is int for side in value):
        raise ValueError(f"expected four whole numbers, got {str(value)[:80]}")
    left, top, right, bottom = value
    if not (0 <= left < right and 0 <= top < bottom):
        raise ValueError(f"expected left, top, right and bottom, got {str(value)[:80]}")
    return left, top, right, bottom
