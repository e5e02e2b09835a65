"""COCO export: one JSON of images, annotations and categories, streamed, with memory flat in the number of images."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from labeler import storage
from labeler.boxes import area, xyxy_to_xywh
from labeler.detections import Detections
from labeler.exports.thresholds import Thresholds
from labeler.merge import suppress_across_categories
from labeler.records import detections_of
from labeler.runs import PlannedShard, Progress, Run, read_tables

_COLUMNS = ("image_key", "shard_id", "width", "height", "status", "detections")
LABELED = ("labeled", "empty")


@dataclass(frozen=True)
class CocoSummary:
    """What an export wrote, and the images it left out because no pixels could be labeled, by status."""

    uri: str
    images: int
    annotations: int
    left_out: dict[str, int]


def export_coco(
    run: Run,
    plan: Sequence[PlannedShard],
    progress: Progress,
    target_uri: str,
    *,
    thresholds: Thresholds | None = None,
    suppress_iou: float | None = None,
) -> CocoSummary:
    """Write the run as one COCO file.

    Image ids count from 1 in key order over all rows, so they do not move when thresholds change; images that could
    not be labeled keep their id but are left out, because a trainer would take them for images without objects.
    Boxes become xywh here and nowhere else; `iscrowd` is 0, `score` is kept.

    Args:
        thresholds: applied first; None keeps everything stored.
        suppress_iou: then drop a box that overlaps a better one of any category by more than this IoU.
    """
    prefixes = {planned.shard_id: file_name_prefix(planned) for planned in plan}
    left_out: Counter[str] = Counter()
    images = annotations = 0
    with tempfile.TemporaryDirectory() as folder:
        parts = [Path(folder) / name for name in ("images", "annotations", "whole")]
        with parts[0].open("w", encoding="utf-8") as image_file, parts[1].open("w", encoding="utf-8") as box_file:
            for image_id, row, detections in _rows(read_tables(run, plan, progress, columns=_COLUMNS)):
                if row["status"] not in LABELED:
                    left_out[row["status"]] += 1
                    continue
                _write(image_file, _image(image_id, row, prefixes[row["shard_id"]]), first=images == 0)
                images += 1
                for annotation in _annotations(image_id, _select(detections, thresholds, suppress_iou)):
                    annotations += 1
                    _write(box_file, {"id": annotations, **annotation}, first=annotations == 1)
        with parts[2].open("w", encoding="utf-8") as whole:
            _assemble(whole, run, parts[0], parts[1])
        storage.put_file(target_uri, parts[2])
    return CocoSummary(target_uri, images, annotations, dict(left_out))


def _rows(tables: Iterator[pa.Table]) -> Iterator[tuple[int, dict[str, Any], Detections]]:
    image_id = 0
    for table in tables:
        plain = table.drop_columns(["detections"]).to_pylist()
        for row, detections in zip(plain, detections_of(table), strict=True):
            image_id += 1
            yield image_id, row, detections


def _select(detections: Detections, thresholds: Thresholds | None, suppress_iou: float | None) -> Detections:
    if thresholds is not None:
        detections = thresholds.apply(detections)
    if suppress_iou is not None:
        detections = suppress_across_categories(detections, iou_above=suppress_iou)
    return detections


def file_name_prefix(planned: PlannedShard) -> str:
    """What COCO's `file_name` has before the image key: "<shard basename>/" for tars and Parquet, else nothing."""
    return "" if planned.shard.format == "images" else f"{storage.basename(planned.shard.uri)}/"


def _image(image_id: int, row: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {"id": image_id, "file_name": prefix + row["image_key"], "width": row["width"], "height": row["height"]}


def _annotations(image_id: int, detections: Detections) -> Iterator[dict[str, Any]]:
    boxes_xywh, areas = xyxy_to_xywh(detections.boxes), area(detections.boxes)
    for box, size, score, category_id in zip(
        boxes_xywh, areas, detections.scores, detections.category_ids, strict=True
    ):
        yield {
            "image_id": image_id,
            "category_id": int(category_id),
            "bbox": [round(float(side), 2) for side in box],
            "area": round(float(size), 2),
            "iscrowd": 0,
            "score": round(float(score), 6),
        }


def _write(file: IO[str], value: dict[str, Any], *, first: bool) -> None:
    file.write(("" if first else ",\n") + json.dumps(value, ensure_ascii=False))


def _assemble(whole: IO[str], run: Run, images: Path, annotations: Path) -> None:
    info = {
        "description": "pseudo-labels by labeler",
        "run_id": run.manifest.run_id,
        "model": run.manifest.config["model"]["name"],
        "date_created": run.manifest.created,
    }
    categories = [
        {"id": c.id, "name": c.name, "supercategory": c.supercategory or ""}
        for c in run.vocabulary().categories
        if not c.negative
    ]
    whole.write('{"info": ' + json.dumps(info) + ',\n"licenses": [],\n"categories": ')
    whole.write(json.dumps(categories, ensure_ascii=False))
    for name, part in (("images", images), ("annotations", annotations)):
        whole.write(f',\n"{name}": [\n')
        with part.open(encoding="utf-8") as lines:
            shutil.copyfileobj(lines, whole)
        whole.write("\n]")
    whole.write("}\n")
