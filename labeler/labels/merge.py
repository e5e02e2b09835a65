"""Merge one image's detections over its prompt chunks: negatives out, duplicates out, best first, capped."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from labeler.labels.boxes import iou
from labeler.labels.detections import Detections

_ROWS_AT_ONCE = 32  # boxes compared with all that may overlap them in one step; memory is that many times n


def merge(
    per_chunk: Detections,
    *,
    nms_iou: float,
    max_detections: int,
    negative_ids: Collection[int] = (),
) -> Detections:
    """Return one image's final detections from the detections of all its chunks.

    The order of the three steps is the meaning:

    1. Negatives go first. They have done their work already: within its chunk a negative competed for each query, and
       where it won, no other category got that query (`detectors/scoring.py`). A negative stands for "not one of
       yours", so it must not suppress anything here or take a place under the cap.
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
    looked_at = 2 * max_detections or len(wanted)
    while True:
        best = _best(wanted, looked_at)
        by_chunk = best[np.argsort(best.chunks, kind="stable")]  # sorting is stable: equal rows stay in chunk order
        survivors = nms(by_chunk, nms_iou=nms_iou)
        if len(survivors) >= max_detections > 0:
            return survivors[:max_detections]
        if len(best) == len(wanted):
            return survivors
        looked_at *= 2


def _best(detections: Detections, count: int) -> Detections:
    """Return the `count` best by score and all that tie with the last of them, in the order they came in.

    Only a better box suppresses, so what survives among them is what survives of them among all.
    """
    if count >= len(detections):
        return detections
    falling = -detections.scores
    return detections[falling <= np.partition(falling, count - 1)[count - 1]]


def nms(detections: Detections, *, nms_iou: float) -> Detections:
    """Greedy suppression within each category: best first, whatever overlaps it by more than `nms_iou` is dropped.

    Ties in score are broken by the box (`Detections.sorted`), so the result does not depend on the order of the rows.
    Returns the survivors, sorted by falling score.
    """
    ordered = detections.sorted()
    if nms_iou >= 1 or len(ordered) < 2:
        return ordered
    return ordered[_greedy(ordered.boxes, ordered.category_ids, nms_iou)]


def suppress_across_categories(detections: Detections, *, iou_above: float) -> Detections:
    """Greedy suppression whatever the category: of boxes that overlap by more than `iou_above` the best score stays.

    For exports, where one object should carry one category; never applied to what a run stores. Sorted result.
    """
    order = detections.order()
    return detections[order[survive_across_categories(detections, iou_above=iou_above)[order]]]


def survive_across_categories(detections: Detections, *, iou_above: float) -> npt.NDArray[np.bool_]:
    """Return (n,) which of them `suppress_across_categories` leaves, in the order they came.

    Boxes that a person has reviewed all stay, and suppress others.
    """
    checked = detections.reviewed
    if checked.any():
        rest = np.flatnonzero(~checked)
        rest = rest[~(iou(detections.boxes[rest], detections.boxes[checked]) > iou_above).any(1)]
        checked[rest] = survive_across_categories(detections[rest], iou_above=iou_above)
        return checked
    order = detections.order()
    stays = np.empty(len(order), np.bool_)
    stays[order] = _greedy(detections.boxes[order], np.zeros(len(order), np.int32), iou_above)
    return stays


def _greedy(
    boxes_xyxy: npt.NDArray[np.float32], category_ids: npt.NDArray[np.int32], iou_above: float
) -> npt.NDArray[np.bool_]:
    """Return (n,) which boxes stay; the boxes come best first.

    Some rows at a time, with the rows of their categories. Those are put together, so that they are few.
    """
    by_category = np.argsort(category_ids, kind="stable")
    boxes, ids = boxes_xyxy[by_category], category_ids[by_category]
    ends = np.searchsorted(ids, ids, side="right")  # (n,) behind the last row of each row's category
    kept = np.ones(len(ids), np.bool_)
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        rows = start + np.flatnonzero(kept[start : start + _ROWS_AT_ONCE])
        others = slice(start, ends[min(start + _ROWS_AT_ONCE, len(ids)) - 1])
        overlapping = (iou(boxes[rows], boxes[others]) > iou_above) & (ids[rows][:, None] == ids[others])
        several = np.count_nonzero(overlapping, axis=1) > 1  # nearly all overlap themselves alone
        for row, overlaps in zip(rows[several], overlapping[several], strict=True):
            if kept[row]:  # then no better one overlaps it: only worse ones are taken away, and itself
                kept[others] &= ~overlaps
                kept[row] = True
    stays = np.empty(len(ids), np.bool_)
    stays[by_category] = kept
    return stays
