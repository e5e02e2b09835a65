"""Segmentations as people write them (polygons, RLE plain and compressed), as compressed RLE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask

from labeler.labels.mask_runs import each_fills

_AT_ONCE = 4096  # masks whose runs are summed together: a few ten MB of memory
_FARTHEST = 10  # image sides that a polygon may reach: pycocotools draws all of it, also what is far outside


def to_rles(segmentations: Sequence[Any], sizes: npt.NDArray[np.int32]) -> npt.NDArray[np.object_]:
    """Return {size, counts} with `counts` as bytes for each segmentation; None for what is not one of its image.

    Args:
        segmentations: n polygon lists or RLE objects.
        sizes: (n, 2) height and width of the images, 0 if unknown: then an RLE's own size is taken.
    """
    masks = np.empty(len(segmentations), np.object_)
    for row, segmentation in enumerate(segmentations):
        masks[row] = _to_rle(segmentation, int(sizes[row, 0]), int(sizes[row, 1]))
    written = [row for row, one in enumerate(segmentations) if masks[row] is not None and isinstance(one, Mapping)]
    for start in range(0, len(written), _AT_ONCE):
        rows = np.array(written[start : start + _AT_ONCE], np.int64)
        masks[rows[~_fill(masks[rows])]] = None
    return masks


def _fill(masks: npt.NDArray[np.object_]) -> npt.NDArray[np.bool_]:
    offsets = np.cumsum([0, *(len(mask["counts"]) for mask in masks)], dtype=np.int64)
    text = np.frombuffer(b"".join(mask["counts"] for mask in masks), np.uint8)
    return each_fills(text, offsets, np.array([mask["size"][0] * mask["size"][1] for mask in masks], np.int64))


def _to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any] | None:
    try:
        if isinstance(segmentation, Mapping):
            rle = _from_rle(segmentation, height, width)
        elif height and width and all(_is_near(polygon, height, width) for polygon in segmentation):
            rle = pycocotools.mask.merge(pycocotools.mask.frPyObjects(segmentation, height, width))
        else:
            return None
    except Exception:  # pycocotools raises bare Exceptions and TypeErrors for what it does not know
        return None
    size = [int(side) for side in rle["size"]]
    fits = [height, width] in (size, [0, 0]) and all(0 < side < 2**31 for side in size)
    return {"size": size, "counts": rle["counts"]} if fits else None


def _is_near(polygon: Any, height: int, width: int) -> bool:
    """Return whether all coordinates are numbers (NaN is not) of a place that the image can be said to have."""
    return bool((np.abs(np.asarray(polygon, np.float64)) <= _FARTHEST * max(height, width)).all())


def _from_rle(segmentation: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
    size, counts = [int(side) for side in segmentation["size"]], segmentation["counts"]
    if isinstance(counts, list):
        rle: dict[str, Any] = pycocotools.mask.frPyObjects({"size": size, "counts": counts}, height, width)
        return rle
    return {"size": size, "counts": counts.encode() if isinstance(counts, str) else bytes(counts)}
