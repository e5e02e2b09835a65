"""Merge one image's detections over its prompt chunks: negatives out, duplicates out, best first, capped."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from labeler.boxes import iou
from labeler.detections import Detections


def merge(
    per_chunk: Detections,
    *,
    nms_iou: float,
    max_detections: int,
    negative_ids: Collection[int] = (),
) -> Detections:
    """One image's final detections from the detections of all its chunks.

    The order of the three steps is the meaning:

    1. Negatives go first. They have done their work already: within its chunk a negative competed for each query, and
       where it won, no other category got that query (`detectors/scoring.py`). A negative stands for "not one of
       yours", so it must neither suppress anything here nor take a place under the cap.
    2. Suppression within a category (`nms`). It removes the duplicates that several queries make, and several chunks
       where a category with many synonyms is spread over them. Boxes of different categories never suppress each other
       here: which of two overlapping categories is right is decided at export, by thresholds the run does not know.
    3. The cap, on what is left: a suppressed duplicate takes no place.

    Args:
        per_chunk: detections of all chunks, in any order.
        nms_iou: a box that overlaps a better one of its category by more than this is dropped; 1 keeps all.
        max_detections: how many are kept, best first; 0 keeps all.
        negative_ids: categories that only compete.

    Returns:
        Detections sorted by falling score; equal input rows in any order give the same result.
    """
    wanted = per_chunk[~np.isin(per_chunk.category_ids, list(negative_ids))]
    by_chunk = wanted[np.argsort(wanted.chunks, kind="stable")]  # sorting is stable: equal rows stay in chunk order
    return nms(by_chunk, nms_iou=nms_iou).top(max_detections)


def nms(detections: Detections, *, nms_iou: float) -> Detections:
    """Greedy suppression within each category: best first, whatever overlaps it by more than `nms_iou` is dropped.

    Ties in score are broken by the box (`Detections.sorted`), so the result does not depend on the order of the rows.
    Returns the survivors, sorted by falling score.
    """
    ordered = detections.sorted()
    if nms_iou >= 1 or len(ordered) < 2:
        return ordered
    kept = np.ones(len(ordered), np.bool_)
    for rows in _rows_by_category(ordered.category_ids):
        kept[rows] = _greedy(ordered.boxes[rows], nms_iou)
    return ordered[kept]


def suppress_across_categories(detections: Detections, *, iou_above: float) -> Detections:
    """Greedy suppression whatever the category: of boxes that overlap by more than `iou_above` the best score stays.

    For exports, where one object should carry one category; never applied to what a run stores. Sorted result.
    """
    ordered = detections.sorted()
    return ordered[_greedy(ordered.boxes, iou_above)] if len(ordered) > 1 else ordered


def _rows_by_category(category_ids: npt.NDArray[np.int32]) -> list[npt.NDArray[np.intp]]:
    """Row numbers of each category that has at least two rows, rising within the category."""
    rows = np.argsort(category_ids, kind="stable")
    starts = np.flatnonzero(np.diff(category_ids[rows])) + 1
    return [group for group in np.split(rows, starts) if len(group) > 1]


def _greedy(boxes_xyxy: npt.NDArray[np.float32], nms_iou: float) -> npt.NDArray[np.bool_]:
    """(n,) which boxes stay; the boxes come best first. One row of overlaps at a time, so memory stays linear in n."""
    kept = np.ones(len(boxes_xyxy), np.bool_)
    for row in range(len(boxes_xyxy) - 1):
        if kept[row]:
            kept[row + 1 :] &= iou(boxes_xyxy[row], boxes_xyxy[row + 1 :])[0] <= nms_iou
    return kept
