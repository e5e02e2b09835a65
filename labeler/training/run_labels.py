"""Ground ground truth for training: the labels of a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from labeler import storage
from labeler.errors import Refused
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.records import BOXES, LABELED
from labeler.runs import Run, open_run, read_snapshot
from labeler.training.categories import NONE, listed, match_by_name
from labeler.training.stored_images import Location, Record
from labeler.vocabulary import Vocabulary

_COLUMNS = ("image_key", "shard_id", "uri", "offset", "length", "width", "height", "status", BOXES)

log = logging.getLogger(__name__)


def read_run(
    run_uri: str,
    *,
    score_threshold: float,
    vocabulary: Vocabulary | None = None,
    partial: bool = False,
    reviewed_weight: int = 1,
) -> tuple[list[Record], Vocabulary]:
    """Return the labeled and empty images of a run with their detections of at least the threshold, and what they are.

    Args:
        vocabulary: what to train instead of the run's own, matched by name: the records have its ids.
        partial: omit detections of categories that it lacks, and log which these are.
        reviewed_weight: how often an image that a person reviewed completely is among the records.

    Raises:
        Refused: if it is not a run, nothing is labeled yet, its images are inside Parquet files, or it has detections
            of categories that `vocabulary` lacks.
    """
    shown = storage.redact(run_uri)
    run = open_run(run_uri)
    if run is None:
        raise Refused(f"data.run: {shown} holds no run (no run.json); give the output folder of `labeler label`")
    run.s3_rules().apply()
    records = _read_records(run, score_threshold, shown, reviewed_weight)
    if not records:
        raise Refused(f"data.run: {shown} has no labeled image; label it first")
    own = run.vocabulary()
    wanted = Vocabulary(own.name, tuple(category for category in own.categories if not category.negative))
    if vocabulary is None:
        return records, wanted
    return _renumbered(records, wanted, vocabulary, f"data.run {shown}", partial=partial), vocabulary


def _renumbered(
    records: list[Record], own: Vocabulary, vocabulary: Vocabulary, source: str, *, partial: bool
) -> list[Record]:
    place_of = {category.id: place for place, category in enumerate(own.categories)}
    objects = np.zeros(len(own), np.int64)
    for record in records:
        for category_id in record.category_ids.tolist():
            objects[place_of[category_id]] += 1
    ids, lacking = match_by_name(own.categories, objects, vocabulary, source=source, partial=partial)
    if lacking:
        log.warning("%s: excluded: categories that the vocabulary lacks (%s)", source, listed(lacking))
    new_ids = {category.id: int(id_) for category, id_ in zip(own.categories, ids, strict=True) if id_ != NONE}
    return [record.renumbered(new_ids) for record in records]


def _read_records(run: Run, score_threshold: float, shown: str, reviewed_weight: int) -> list[Record]:
    snapshot = read_snapshot(run)
    formats: Mapping[str, str] = {planned.shard_id: planned.shard.format for planned in snapshot.plan}
    if "parquet" in formats.values():
        raise Refused(
            f"data.run: {shown} labeled images inside Parquet files; only tars and image files can be read back"
        )
    records = []
    for table in snapshot.tables((*_COLUMNS, *(name for name in run.columns if name == "review"))):
        rows = table.drop_columns(["detections"]).to_pylist()
        for row, found in zip(rows, DetectionsColumn(table).per_row(masks=False), strict=True):
            if row["status"] not in LABELED:
                continue
            kept = found.above(score_threshold)
            whole = formats[row["shard_id"]] == "images"
            location = Location(row["uri"]) if whole else Location(row["uri"], row["offset"], row["length"])
            ids = kept.category_ids.astype(np.int64)
            record = Record(row["image_key"], location, row["width"], row["height"], kept.boxes, ids)
            records += [record] * (reviewed_weight if row.get("review") == "complete" else 1)
    return records
