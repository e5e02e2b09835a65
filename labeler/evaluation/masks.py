"""Segmentations as people write them (polygons, RLE plain and compressed), as compressed RLE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pycocotools.mask


def to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any] | None:
    """{size, counts} with `counts` as bytes, for a height x width image; None when it is no segmentation of one."""
    try:
        if isinstance(segmentation, Mapping):
            rle = _from_rle(segmentation, height, width)
        elif height and width:
            rle = pycocotools.mask.merge(pycocotools.mask.frPyObjects(segmentation, height, width))
        else:
            return None
    except Exception:  # pycocotools raises bare Exceptions and TypeErrors for what it does not know
        return None
    return rle if [height, width] in (list(rle["size"]), [0, 0]) else None


def _from_rle(segmentation: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
    size, counts = [int(side) for side in segmentation["size"]], segmentation["counts"]
    if isinstance(counts, list):
        rle: dict[str, Any] = pycocotools.mask.frPyObjects({"size": size, "counts": counts}, height, width)
        return rle
    return {"size": size, "counts": counts.encode() if isinstance(counts, str) else bytes(counts)}
