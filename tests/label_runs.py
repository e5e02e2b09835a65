"""Small runs for tests of calibration and exports: real rows through the real writer, over real shards where wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labeler.exports.coco_files import CocoFormat
from labeler.exports.export import export_run
from labeler.exports.selection import Selection
from labeler.exports.totals import ExportTotals
from labeler.labels.detections import Detections
from labeler.labels.extensions import schema_fields
from labeler.labels.records import Row, rows_to_table, table_to_parquet
from labeler.labels.thresholds import Thresholds
from labeler.prompts.grounding_dino import Prompts
from labeler.runs import Run, Snapshot, layout, open_run
from labeler.runs.create import NewRun, create_run
from labeler.runs.plan import PlannedShard
from labeler.shards import Shard
from labeler.vocabulary import Vocabulary

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}, {"id": 9, "name": "sky", "negative": True}]
DETECT = {"score_floor": 0.05, "max_detections": 300, "assignment": "argmax", "score": "mean", "nms_iou": 0.7}


def write_run(
    folder: Path,
    units: Mapping[tuple[int, int], Sequence[Row]],
    *,
    uris: Sequence[str] = ("s3://b/in/part-0.tar",),
    categories: Sequence[Mapping[str, Any]] = CATEGORIES,
    fields: Mapping[str, Any] | None = None,
    keep: Sequence[str] = (),
    columns: Sequence[str] = (),
    unfinished: Sequence[int] = (),
    shards: Sequence[Shard] | None = None,
) -> Run:
    """A run with these rows by (shard, unit); over `shards`, or over tars at `uris` that nobody opens.

    Args:
        columns: the optional ones.
    """
    shards = shards or [Shard(f"{i:06d}", uri, 10, "e", "webdataset") for i, uri in enumerate(uris)]
    plan = [PlannedShard(shard, None) for shard in shards]
    vocabulary = Vocabulary.load(categories)
    prompts = Prompts((), vocabulary.negative_ids, 256)
    config = {
        "model": {"name": "tiny"},
        "input": {"uri": [shard.uri for shard in shards], "keep": list(keep)},
        "output": {"uri": str(folder)},
        "vocabulary": [dict(category) for category in categories],
        "detect": DETECT,
    }
    found = {"model": "m1", "prompts": prompts.fingerprint, "vocabulary": vocabulary.fingerprint} | dict(fields or {})
    found |= schema_fields(columns) if columns else {}
    create_run(str(folder), NewRun(found, config, {}, vocabulary, prompts, plan))
    for (shard, number), rows in units.items():
        path = folder / layout.unit_file(f"{shard:06d}", number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(table_to_parquet(rows_to_table(rows, keep, columns), {}))
    for shard in set(range(len(shards))) - set(unfinished):
        mine = {unit: rows for unit, rows in units.items() if unit[0] == shard}
        marker = folder / layout.end_marker(f"{shard:06d}", len(mine), sum(map(len, mine.values())))
        marker.parent.mkdir(exist_ok=True)
        marker.touch()
    run = open_run(str(folder))
    assert run is not None
    return run


def row(index: int, detections: Detections | None = None, *, shard: int = 0, **values: Any) -> Row:
    found = detections or Detections.empty()
    plain: dict[str, Any] = {
        "image_key": f"{index}.jpg",
        "width": 640,
        "height": 480,
        "uri": f"s3://b/in/part-{shard}.tar",
    }
    plain |= {"digest": f"{shard * 1_000_000 + index:032x}", "status": "labeled" if len(found) else "empty"}
    return Row(shard_id=f"{shard:06d}", index=index, detections=found, **(plain | values))


def noisy_scene(rng: np.random.Generator, sharpness: Mapping[int, float], boxes: int) -> tuple[Detections, list[Any]]:
    """Detections whose chance of being right is score ** sharpness[category], and the objects that make it so."""
    category_ids = rng.choice(sorted(sharpness), boxes)
    scores = rng.uniform(0.05, 1.0, boxes)
    right = rng.random(boxes) < scores ** np.array([sharpness[int(c)] for c in category_ids])
    x, y = 60.0 * (np.arange(boxes) % 10), 60.0 * (np.arange(boxes) // 10)  # spaced, so nothing overlaps by chance
    found = np.stack([x, y, x + 40, y + 40], 1)
    objects = [
        {"category_id": int(c), "bbox": [float(a), float(b), 40.0, 40.0]}
        for a, b, c, ok in zip(x, y, category_ids, right, strict=True)
        if ok
    ]
    return Detections.of(found, scores, category_ids).sorted(), objects


def noisy_run(
    folder: Path, sharpness: Mapping[int, float], *, images: int, seed: int = 0
) -> tuple[Run, dict[str, Any]]:
    """A run over images with such detections, and the ground truth of all of them."""
    rng = np.random.default_rng(seed)
    rows, truth = [], {"images": [], "annotations": [], "categories": [c for c in CATEGORIES if "negative" not in c]}
    for index in range(images):
        detections, objects = noisy_scene(rng, sharpness, 40)
        rows.append(row(index, detections))
        file_name = f"part-0.tar/{index}.jpg"
        truth["images"].append({"id": index + 1, "file_name": file_name, "width": 640, "height": 480})
        for found in objects:
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": index + 1, "iscrowd": 0, **found}
            )
    units = {(0, n): rows[start : start + 64] for n, start in enumerate(range(0, images, 64))}
    return write_run(folder, units), truth


def only_images(truth: Mapping[str, Any], wanted: Any) -> dict[str, Any]:
    """The part of a ground truth whose image ids pass."""
    return {
        **truth,
        "images": [i for i in truth["images"] if wanted(i["id"])],
        "annotations": [a for a in truth["annotations"] if wanted(a["image_id"])],
    }


def export_coco(
    snapshot: Snapshot, target: str, *, thresholds: Thresholds | None = None, suppress_iou: float | None = None
) -> ExportTotals:
    """The whole run as one COCO file."""
    selection = Selection(thresholds=thresholds or Thresholds(), suppress_iou=suppress_iou)
    return export_run(snapshot, selection, CocoFormat(), target, single_file=True).totals
