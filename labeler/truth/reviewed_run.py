"""A corrected run as ground truth: its images that a person reviewed completely, and nothing of the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from labeler import storage
from labeler.errors import Refused
from labeler.labels.boxes import xyxy_to_xywh
from labeler.labels.detections import Detections
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.records import LABELED
from labeler.runs import Run, open_run, read_snapshot
from labeler.truth.ground_truth import Annotations, GroundTruth, read_ground_truth

_COLUMNS = ("image_key", "shard_id", "digest", "width", "height", "status", "review", "detections")
_COMPLETE = "complete"


def read_truth(annotations: Annotations, *, masks: bool = False) -> GroundTruth:
    """Read annotations of either kind: the folder of a corrected run, or as `read_ground_truth`.

    Raises:
        Refused: as `read_reviewed` and `read_ground_truth`.
    """
    is_folder = isinstance(annotations, str | Path) and not str(annotations).lower().endswith(".json")
    if is_folder and not storage.is_web(str(annotations)):
        run = open_run(storage.absolute_uri(str(annotations)))
        if run is not None:
            return read_reviewed(run, masks=masks)
    return read_ground_truth(annotations, masks=masks)


def read_reviewed(run: Run, *, masks: bool = False) -> GroundTruth:
    """Read the completely reviewed images of a run; `masks` also reads masks.

    Raises:
        Refused: none of its images was reviewed, or masks are asked for and a box has none.
    """
    shown = storage.redact(run.uri)
    advice = "give a run that `labeler correct` made, or a COCO or LVIS json"
    if "review" not in run.columns:
        raise Refused(f"annotations {shown}: a run whose images nobody reviewed; {advice}")
    snapshot = read_snapshot(run)
    snapshot.require_complete("give annotations")
    run.s3_rules().apply()
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    digests: list[str] = []
    found: list[Detections] = []
    partly = 0
    for table in snapshot.tables():  # a unit file may lack the column `review`
        if "review" not in table.schema.names:
            continue
        partly += pc.sum(pc.equal(table["review"], "boxes")).as_py() or 0
        is_truth = pc.and_(pc.equal(table["review"], _COMPLETE), pc.is_in(table["status"], pa.array(LABELED)))
        table = table.filter(pc.fill_null(is_truth, False)).select(list(_COLUMNS))
        rows = table.drop_columns(["detections"]).to_pylist()
        names += [snapshot.prefixes[row["shard_id"]] + row["image_key"] for row in rows]
        sizes += [(row["height"], row["width"]) for row in rows]
        digests += [row["digest"] or "" for row in rows]
        found += DetectionsColumn(table).per_row(masks=masks)
    if not names:
        single = f"; of {partly:,} images single boxes were, which say nothing of missed objects" if partly else ""
        raise Refused(f"annotations {shown}: no image of the run was reviewed completely{single}; {advice}")
    return replace(_assembled(run, names, sizes, found, masks=masks), digests=tuple(digests))


def _assembled(
    run: Run, names: list[str], sizes: list[tuple[int, int]], found: list[Detections], *, masks: bool
) -> GroundTruth:
    categories = tuple(sorted((c for c in run.vocabulary().categories if not c.negative), key=lambda c: c.id))
    every = Detections.concat(found)
    boxes = xyxy_to_xywh(every.boxes).astype(np.float64)
    ids = np.array([category.id for category in categories], np.int64)
    if masks and every.count_masks() < len(every):
        raise Refused(f"annotations {storage.redact(run.uri)}: a reviewed box has no mask; make them by `labeler mask`")
    nothing = np.zeros(len(every), np.bool_)
    return GroundTruth(
        source=f"{storage.redact(run.uri)} (images reviewed in this run)",
        image_ids=np.arange(1, len(names) + 1, dtype=np.int64),
        file_names=tuple(names),
        sizes=np.array(sizes, np.int32).reshape(-1, 2),
        categories=categories,
        image=np.repeat(np.arange(len(found), dtype=np.int32), [len(one) for one in found]),
        category=np.searchsorted(ids, every.category_ids).astype(np.int32),
        boxes_xywh=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=nothing,
        ignore=nothing,
        masks=_rles(every) if masks else None,
        federated=None,
    )


def _rles(every: Detections) -> npt.NDArray[np.object_]:
    rles = np.empty(len(every), np.object_)
    for row in range(len(every)):
        mask = every.mask_of(row)
        rles[row] = None if mask is None else mask.rle
    return rles
