"""One category's detections against its objects: overlaps and the greedy matching are pycocotools' own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pycocotools.mask
from pycocotools.cocoeval import COCOeval

Kind = Literal["bbox", "segm"]
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # as cocoeval has them, to the last bit
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
_PLACES = (len(AREAS), len(IOU_THRESHOLDS))


@dataclass(frozen=True)
class Side:
    """The objects, or the detections, of one category; sorted by image, detections by falling score within it.

    Attributes:
        image: (n,) int32 positions.
        regions: (n, 4) xywh boxes, or (n,) RLE objects.
        areas: (n,) float64 square pixels.
        scores: (n,) of detections; zeros for objects.
        crowd, ignore: (n,) bool of objects; False for detections.
    """

    image: npt.NDArray[np.int32]
    regions: npt.NDArray[Any]
    areas: npt.NDArray[np.float64]
    scores: npt.NDArray[Any]
    crowd: npt.NDArray[np.bool_]
    ignore: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Matches:
    """What the matching found, for the few detections that overlap any object enough; all others match nothing.

    Attributes:
        rows: (m,) the detections.
        matched: (areas, thresholds, m) bool.
        to_ignored: (areas, thresholds, m) bool, matched to an object that does not count.
    """

    rows: npt.NDArray[np.int64]
    matched: npt.NDArray[np.bool_]
    to_ignored: npt.NDArray[np.bool_]


class Matcher:
    """Owns the COCOeval whose `evaluateImg` does the matching, fed one image's candidates at a time.

    COCOeval wants an entry for each image, category and area: 400 million for a million images. Here only images that
    have both objects and detections of a category come to it, and of those only detections that overlap some object
    by the lowest threshold at least: the others cannot match, so the result is the same.
    """

    def __init__(self) -> None:
        self._evaluator = COCOeval(iouType="bbox")  # no data of its own: it is lent one image at a time
        self._evaluator.params.iouThrs = IOU_THRESHOLDS

    def match(self, objects: Side, detections: Side) -> Matches:
        """Greedy, best score first; detections with equal scores in their order."""
        rows, matched, to_ignored = [np.zeros(0, np.int64)], [], []
        for here, there in _shared_images(objects, detections):
            crowd = objects.crowd[here].astype(np.uint8)
            overlaps = overlap(detections.regions[there], objects.regions[here], crowd)
            candidates = np.flatnonzero(overlaps.max(1) >= IOU_THRESHOLDS[0])
            if len(candidates):
                found = there.start + candidates
                self._lend(objects, here, detections, found, overlaps[candidates])
                by_area = self._match_by_area(objects.areas[here], objects.ignore[here], len(found))
                rows.append(found)
                matched.append(by_area[0])
                to_ignored.append(by_area[1])
        if not matched:
            nothing = np.zeros((*_PLACES, 0), np.bool_)
            return Matches(rows[0], nothing, nothing)
        return Matches(np.concatenate(rows), np.concatenate(matched, 2), np.concatenate(to_ignored, 2))

    def _match_by_area(
        self, areas: npt.NDArray[np.float64], ignore: npt.NDArray[np.bool_], count: int
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """(matched, to_ignored) of what was lent, each (areas, thresholds, count).

        The area only decides which objects do not count. Where that is none of them, or all, the matching is that of
        every object counting, and need not be done again: the usual case, and this is where the time goes.
        """
        matched = np.zeros((*_PLACES, count), np.bool_)
        to_ignored = np.zeros_like(matched)
        for place, (low, high) in enumerate(AREAS.values()):
            outside = (areas < low) | (areas > high)
            if place == 0 or ignore.any() or outside.any() != outside.all():
                result = self._evaluator.evaluateImg(0, 0, (low, high), count)
                matched[place] = result["dtMatches"] > 0
                to_ignored[place] = matched[place] & result["dtIgnore"]
            else:
                matched[place] = matched[0]
                to_ignored[place] = matched[0] & outside.all()
        return matched, to_ignored

    def _lend(
        self, objects: Side, here: slice, detections: Side, found: npt.NDArray[np.int64], overlaps: npt.NDArray[Any]
    ) -> None:
        """Ids count from 1: evaluateImg takes an id of 0 for "not matched"."""
        evaluator = self._evaluator
        columns = zip(objects.areas[here], objects.crowd[here], objects.ignore[here], strict=True)
        evaluator._gts = {
            (0, 0): [
                {"id": number, "area": area, "iscrowd": int(crowd), "ignore": int(ignore)}
                for number, (area, crowd, ignore) in enumerate(columns, 1)
            ]
        }
        scores, areas = detections.scores[found].tolist(), detections.areas[found].tolist()
        evaluator._dts = {
            (0, 0): [
                {"id": number, "score": score, "area": area}
                for number, (score, area) in enumerate(zip(scores, areas, strict=True), 1)
            ]
        }
        evaluator.ious = {(0, 0): overlaps}


def overlap(detections: npt.NDArray[Any], objects: npt.NDArray[Any], crowd: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(detections, objects) float64 IoU; over a crowd, the part of the detection inside it. All not empty."""
    are_boxes = detections.ndim == 2
    sides = [np.ascontiguousarray(side, np.float64) if are_boxes else list(side) for side in (detections, objects)]
    ious: npt.NDArray[Any] = pycocotools.mask.iou(*sides, crowd)
    return ious


def _shared_images(objects: Side, detections: Side) -> Iterator[tuple[slice, slice]]:
    """For each image with both: its rows among the objects, and among the detections."""
    shared = np.intersect1d(objects.image, detections.image)
    bounds = [np.searchsorted(side.image, [shared, shared + 1]).T for side in (objects, detections)]  # (shared, 2)
    for (start, stop), (first, last) in zip(bounds[0].tolist(), bounds[1].tolist(), strict=True):
        yield slice(start, stop), slice(first, last)


def rank_in_group(groups: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """(n,) 0-based place of each row within its run of equal values; equal values stand together."""
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1)) if len(groups) else np.zeros(0, np.int64)
    lengths = np.diff(np.append(starts, len(groups)))
    return np.arange(len(groups)) - np.repeat(starts, lengths)
