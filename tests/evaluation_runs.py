"""A small run of two shards, and the ground truth it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from labeler.evaluation import Evaluation
from labeler.labels.boxes import xyxy_to_xywh
from labeler.labels.detections import Detections
from labeler.labels.detections_column import MASK
from labeler.labels.records import Row, rows_to_table, table_to_parquet
from labeler.prompts.grounding_dino import Prompts
from labeler.runs import layout, open_run, read_snapshot
from labeler.runs.create import NewRun, create_run
from labeler.runs.plan import PlannedShard
from labeler.shards import Shard
from labeler.vocabulary import Vocabulary
from tests.evaluation_scenes import rectangle
from tests.label_runs import export_coco

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}, {"id": 9, "name": "sky", "negative": True}]
DETECT = {"score_floor": 0.05, "max_detections": 300, "assignment": "argmax", "score": "mean", "nms_iou": 0.7}
FIXED = {"assignment": "flattened", "max_detections": 0}
SHARDS = ("s3://b/in/part-0.tar", "s3://b/in/part-1.tar")


def row(shard: int, index: int, detections: Detections | None = None, **values: Any) -> Row:
    found = detections or Detections.empty()
    status = "labeled" if len(found) else "empty"
    plain = Row(f"{index}.jpg", f"{shard:06d}", index, SHARDS[0], status, width=400, height=400, detections=found)
    return replace(plain, **values)


def write_run(
    folder: Path,
    units: Mapping[tuple[int, int], Sequence[Row]],
    *,
    categories: Sequence[Mapping[str, Any]] = CATEGORIES,
    detect: Mapping[str, Any] | None = None,
    uris: Sequence[str] = SHARDS,
    format: Any = "webdataset",
    unfinished: Sequence[int] = (),
    masks: bool = False,
) -> str:
    """A run with these rows by (shard, unit), written through the real writer; returns its folder."""
    plan = [PlannedShard(Shard(f"{i:06d}", uri, 10, "e", format), None) for i, uri in enumerate(uris)]
    config = {"model": {"name": "tiny"}, "input": {"keep": []}, "detect": DETECT | dict(detect or {})}
    vocabulary = Vocabulary.load(categories)
    prompts = Prompts((), vocabulary.negative_ids, 256)
    create_run(str(folder), NewRun({"masks": "box" if masks else None}, config, {}, vocabulary, prompts, plan))
    for (shard, number), rows in units.items():
        path = folder / layout.unit_file(f"{shard:06d}", number)
        path.parent.mkdir(parents=True, exist_ok=True)
        table = rows_to_table(rows)
        path.write_bytes(table_to_parquet(add_masks(table) if masks else table, {}))
    for shard in set(range(len(uris))) - set(unfinished):
        mine = {unit: rows for unit, rows in units.items() if unit[0] == shard}
        marker = folder / layout.end_marker(f"{shard:06d}", len(mine), sum(map(len, mine.values())))
        marker.parent.mkdir(exist_ok=True)
        marker.touch()
    return str(folder)


def add_masks(table: pa.Table) -> pa.Table:
    """The same rows with each box filled as its mask."""
    column = table["detections"].combine_chunks()
    values = column.values
    boxes = np.stack([values.field(side).to_numpy() for side in ("x_min", "y_min", "x_max", "y_max")], 1)
    masks = [rectangle([float(v) for v in box]) for box in xyxy_to_xywh(boxes)]
    filled = pa.array([{"size": m["size"], "counts": m["counts"].encode()} for m in masks], MASK)
    fields = list(column.type.value_type)
    parts = [values.field(f.name) if f.name != "mask" else filled for f in fields]
    rebuilt = pa.ListArray.from_arrays(
        column.offsets, pa.StructArray.from_arrays(parts, fields=fields), type=column.type
    )
    return table.set_column(table.schema.names.index("detections"), table.schema.field("detections"), rebuilt)


CAT = Detections.of([[10, 10, 60, 60]], [0.9], [3])
BOTH = Detections.of([[10, 10, 60, 60], [100, 100, 250, 300]], [0.9, 0.6], [3, 8])
UNITS = {(0, 0): [row(0, 0, CAT), row(0, 1)], (0, 1): [row(0, 2, BOTH)], (1, 0): [row(1, 0, BOTH)]}


def truth_of(run_uri: str, folder: Path) -> dict[str, Any]:
    """The run's own export: ground truth that the run reaches perfectly."""
    run = open_run(run_uri)
    assert run is not None
    export_coco(read_snapshot(run), str(folder / "gt.json"))
    values: dict[str, Any] = json.loads((folder / "gt.json").read_text())
    return values


def ap(evaluation: Evaluation) -> float | None:
    return evaluation.scores[0].summary()["AP"]
