"""Runs over real image files with boxes and names that a test chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from labeler.labeling.unit import UnitLabeler
from labeler.labels.detections import Detections
from labeler.runs import Run
from labeler.shards import Unit, find_shards, read_units
from tests.label_runs import write_run
from tests.red_boxes import RedFinder, picture


def run_over_pictures(folder: Path, found: Sequence[Detections], *, names: Sequence[str]) -> Run:
    """Return a run over PNG files of 96 x 64, one for each of `found`; categories are `names` with ids from 1."""
    (folder / "in").mkdir()
    for place in range(len(found)):
        (folder / "in" / f"{place:03d}.png").write_bytes(picture(place, format="PNG"))
    (shard,) = find_shards(str(folder / "in"))
    limits = {"max_images": 100, "max_bytes": 1 << 20, "max_image_bytes": 1 << 20}
    (unit,) = (work for work in read_units(shard, keep=(), **limits) if isinstance(work, Unit))
    rows = UnitLabeler(RedFinder(), decode_threads=1, images_per_batch=4).label(shard.shard_id, unit.items, ())[0]
    chosen = [
        replace(row, detections=boxes, status="labeled" if len(boxes) else "empty")
        for row, boxes in zip(rows, found, strict=True)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return write_run(folder / "run", {(0, 0): chosen}, shards=[shard], categories=categories)
