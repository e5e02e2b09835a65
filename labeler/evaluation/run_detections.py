"""A run's detections of the ground truth's images, read as a stream of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labeler.evaluation.detection_table import DetectionTable
from labeler.labels.boxes import xyxy_to_xywh
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.merge import survive_across_categories
from labeler.labels.records import BOXES
from labeler.labels.thresholds import Thresholds
from labeler.runs import Snapshot, UnitKey
from labeler.truth.alignment import Positions

_SIDES = ("x_min", "y_min", "x_max", "y_max")


def read_detections(
    snapshot: Snapshot,
    rows: Mapping[UnitKey, Positions],
    category_of: Mapping[int, int],
    thresholds: Thresholds,
    *,
    suppress_iou: float | None = None,
    masks: bool = False,
) -> Iterator[tuple[DetectionTable, npt.NDArray[np.bool_], npt.NDArray[np.int64]]]:
    """For each unit that matters: its detections, which of them survive, and how many each image has stored.

    Args:
        rows: see `ImageMatch`; positions must be those of the ground truth that is evaluated.
        category_of: category id -> position; detections of other categories are left out.
        thresholds: detections below them are left out, too.
        suppress_iou: of boxes above their thresholds that overlap more, whatever their categories, only the best
            survives, as in exports; None: all do.
        masks: read them, too; a detection may have none.
    """
    ids = np.array(sorted(category_of), np.int64)
    positions = np.array([category_of[int(id_)] for id_ in ids], np.int32)
    for unit, table in snapshot.only(rows).units(("detections" if masks else BOXES,)):
        yield _to_table(table, rows[unit], ids, positions, thresholds, suppress_iou, masks=masks)


def _to_table(
    table: pa.Table,
    image_of_row: Positions,
    ids: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int32],
    thresholds: Thresholds,
    suppress_iou: float | None,
    *,
    masks: bool,
) -> tuple[DetectionTable, npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    column = DetectionsColumn(table)
    every = column.detections
    image = np.repeat(image_of_row, column.lengths)
    place = np.minimum(np.searchsorted(ids, every.category_ids), len(ids) - 1)
    above = (image >= 0) & (every.scores >= thresholds.limits(every.category_ids))
    kept = above & (ids[place] == every.category_ids)
    survives = above if suppress_iou is None else above.copy()
    if suppress_iou is not None:  # by boxes of categories that are not annotated, too
        for mine in np.split(np.flatnonzero(above), np.flatnonzero(np.diff(image[above])) + 1):
            survives[mine] = survive_across_categories(every[mine], iou_above=suppress_iou)
    found = DetectionTable(image[kept], positions[place[kept]], every.scores[kept], xyxy_to_xywh(every.boxes[kept]))
    if masks:
        found = replace(found, masks=_masks(column, kept))
    return found, survives[kept], column.lengths[image_of_row >= 0]


def _masks(column: DetectionsColumn, kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.object_]:
    rles = np.full(int(kept.sum()), None, np.object_)
    for row, mask in enumerate(column.masks(kept) or ()):
        rles[row] = None if mask is None else mask.rle
    return rles
