"""Runs to look at: real images in tars, folders or Parquet, read by the real readers, rows by the real writers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from labeler.digests import digest_of
from labeler.labels.detections import Detections
from labeler.labels.records import Row, rows_to_table, table_to_parquet
from labeler.prompts.grounding_dino import Prompts
from labeler.runs import Run, layout, open_run
from labeler.runs.create import NewRun, create_run
from labeler.runs.plan import PlannedShard
from labeler.shards import Item, ShardEnd, find_shards, read_units
from labeler.vocabulary import Vocabulary
from tests.inputs import image_bytes, tar_bytes

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
CATEGORIES: list[dict[str, Any]] = [
    {"id": 3, "name": "cat"},
    {"id": 8, "name": "dog"},
    {"id": 5, "name": HOSTILE, "phrases": ["hostile"]},
    {"id": 6, "name": "unicorn"},
    {"id": 9, "name": "sky", "negative": True},
]
CAP = 8
SIZE = (160, 120)  # width, height

Detect = Callable[[np.random.Generator, Item], Detections]


def some_boxes(rng: np.random.Generator, item: Item) -> Detections:
    """0 to CAP boxes anywhere, of every category but the unicorn."""
    count = int(rng.integers(0, CAP + 1))
    corners = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 60, (count, 2))], 1).round(1)
    return Detections.of(boxes, rng.uniform(0.05, 1, count), rng.choice([3, 8, 5], count)).sorted()


def write_input(folder: Path, format: str, count: int = 24) -> Path:
    """Images as two tars, a folder of files, or a Parquet file; one has a hostile name."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {f"{i:04d}.jpg": image_bytes(i, width=SIZE[0], height=SIZE[1], format="JPEG") for i in range(count - 1)}
    pictures["<b>&amp;.jpg"] = image_bytes(count, width=SIZE[0], height=SIZE[1], format="JPEG")
    if format == "webdataset":
        names = list(pictures)
        for shard, part in enumerate((names[::2], names[1::2])):
            (folder / f"part-{shard}.tar").write_bytes(tar_bytes({name: pictures[name] for name in part}))
    elif format == "images":
        for name, data in pictures.items():
            (folder / name).write_bytes(data)
    else:
        values = pa.array([{"bytes": data, "path": name} for name, data in pictures.items()])
        pq.write_table(pa.table({"image": values}), folder / "part.parquet", row_group_size=5)
    return folder


def write_run(
    folder: Path,
    source: Path,
    *,
    format: Any = "webdataset",
    detect: Detect = some_boxes,
    seed: int = 0,
    failed: Mapping[str, tuple[str, str]] | None = None,
    finished: bool = True,
    categories: list[dict[str, Any]] | None = None,
    model: str = "1" * 32,
    change: Callable[[pa.Table], pa.Table] = lambda table: table,
) -> Run:
    """A run over `source` with these detections; `failed` is image key -> (status, error)."""
    rng = np.random.default_rng(seed)
    shards = find_shards(
        [str(source)], format=format, limit=None, images_per_group=10, image_column=None, known=(), first_id=0
    )
    config = {
        "model": {"name": "tiny"},
        "input": {"keep": [], "image_column": None},
        "detect": {"score_floor": 0.05, "max_detections": CAP, "assignment": "argmax", "score": "mean", "nms_iou": 0.7},
    }
    vocabulary = Vocabulary.load(CATEGORIES if categories is None else categories)
    prompts = Prompts((), vocabulary.negative_ids, 256)
    fields = {"model": model, "vocabulary": vocabulary.fingerprint, "prompts": prompts.fingerprint, "masks": None}
    create_run(str(folder), NewRun(fields, config, {}, vocabulary, prompts, [PlannedShard(s, None) for s in shards]))
    for shard in shards:
        works = read_units(
            shard, max_images=5, max_bytes=1 << 26, max_image_bytes=1 << 26, keep=(), skip=lambda _: False
        )
        for work in works:
            if isinstance(work, ShardEnd):
                marker = folder / layout.end_marker(work.shard_id, work.units, work.images)
                marker.parent.mkdir(exist_ok=True)
                if finished:
                    marker.touch()
                continue
            rows = [_row(work.shard_id, item, detect(rng, item), (failed or {}).get(item.key)) for item in work.items]
            path = folder / layout.unit_file(work.shard_id, work.unit)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(table_to_parquet(change(rows_to_table(rows)), {}))
    run = open_run(str(folder))
    assert run is not None
    return run


def _row(shard_id: str, item: Item, found: Detections, failure: tuple[str, str] | None) -> Row:
    assert item.data is not None
    row = Row(
        item.key, shard_id, item.index, item.uri, "labeled" if len(found) else "empty", offset=item.offset,
        length=item.length, digest=digest_of(item.data), width=SIZE[0], height=SIZE[1], orientation=1,
        detections=found,
    )  # fmt: skip
    if failure is None:
        return row
    return replace(row, status=failure[0], error=failure[1], width=None, height=None, detections=Detections.empty())


def data_of(page: str) -> dict[str, Any]:
    """The JSON inside a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    values: dict[str, Any] = json.loads(found[1])
    return values
