"""How time and memory of exports grow with a run: synthetic rows through the real writer, exports in child processes.

    python -m benchmarks.export_scale FOLDER --images 1000000 --output benchmarks/results/export-scale.json

It prints a line for each size and step.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from labeler import storage
from labeler.labels.detections import Detections
from labeler.labels.records import Row, rows_to_table, table_to_parquet
from labeler.prompts.grounding_dino import Prompts
from labeler.runs import Run, layout, open_run
from labeler.runs.create import NewRun, create_run
from labeler.runs.plan import PlannedShard
from labeler.shards import Shard
from labeler.vocabulary import Vocabulary

UNIT_IMAGES, UNITS_PER_SHARD = 256, 40
_DETECT = {"score_floor": 0.05, "max_detections": 300}


@dataclass(frozen=True)
class Stored:
    """Where an encoded image of a shard is, for rows whose images can be read."""

    uri: str
    offset: int
    length: int
    digest: str


def write_run(
    folder: Path, *, images: int, boxes: int, vocabulary: Any, seed: int = 0, stored: Sequence[Stored] = ()
) -> Run:
    """A complete run with about `boxes` stored boxes an image; scores are mostly low, as a detector's are.

    Args:
        vocabulary: what `Vocabulary.load` takes.
        stored: images of 640 x 640 pixels that the rows share round-robin; without them no row has an image.
    """
    words = Vocabulary.load(vocabulary)
    ids = np.array([category.id for category in words.categories])
    frequency = 1 / np.arange(1, len(ids) + 1)  # few categories are common
    frequency /= frequency.sum()
    rng = np.random.default_rng(seed)
    units = -(-images // UNIT_IMAGES)
    shards = [
        Shard(f"{i:06d}", f"s3://b/in/{i:06d}.tar", 1, "e", "webdataset") for i in range(-(-units // UNITS_PER_SHARD))
    ]
    config = {"model": {"name": "synthetic"}, "input": {"keep": []}, "detect": _DETECT}
    prompts = Prompts((), frozenset(), 256)
    fields = {"model": "synthetic", "prompts": prompts.fingerprint, "vocabulary": words.fingerprint}
    create_run(str(folder), NewRun(fields, config, {}, words, prompts, [PlannedShard(s, None) for s in shards]))
    for number, shard in enumerate(shards):
        first, last = number * UNITS_PER_SHARD, min(units, (number + 1) * UNITS_PER_SHARD)
        start = first * UNIT_IMAGES
        for unit in range(first, last):
            size = min(UNIT_IMAGES, images - unit * UNIT_IMAGES)
            rows = list(_rows(rng, shard, unit * UNIT_IMAGES - start, size, boxes, ids, frequency))
            if stored:
                rows = [replace(row, **vars(stored[(start + row.index) % len(stored)])) for row in rows]
            target = storage.join(str(folder), layout.unit_file(shard.shard_id, unit - first))
            storage.put(target, table_to_parquet(rows_to_table(rows), {}))
        here = min(images, last * UNIT_IMAGES) - start
        storage.put(storage.join(str(folder), layout.end_marker(shard.shard_id, last - first, here)), b"")
    run = open_run(str(folder))
    if run is None:
        raise RuntimeError(f"{folder} holds no run after it was written")
    return run


def _rows(
    rng: np.random.Generator, shard: Shard, start: int, count: int, boxes: int, ids: Any, frequency: Any
) -> Iterator[Row]:
    counts = rng.poisson(boxes, count)
    total = int(counts.sum())
    corners = rng.uniform(0, 400, (total, 2))
    found = np.concatenate([corners, corners + rng.uniform(10, 200, (total, 2))], 1)
    scores, category_ids = rng.beta(1, 4, total) * 0.95 + 0.05, rng.choice(ids, total, p=frequency)
    hashes = rng.integers(-(2**63), 2**63, count)
    ends = np.cumsum(counts)
    for place, (first, last) in enumerate(zip(ends - counts, ends, strict=True)):
        index = start + place
        detections = Detections.of(found[first:last], scores[first:last], category_ids[first:last]).sorted()
        yield Row(
            f"{index:06d}.jpg", shard.shard_id, index, shard.uri, "labeled" if last > first else "empty",
            offset=index * 131072 + 512, length=120_000, digest=rng.bytes(16).hex(), width=640, height=640,
            orientation=1, phash=int(hashes[place]), detections=detections,
        )  # fmt: skip


def in_child(*arguments: str) -> tuple[float, float, float]:
    """(seconds, of them on the CPU, peak MB) of `python ...`, its start included; fails when it does."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


Taken = dict[str, int | float | str]


def measure(folder: Path, images: int, arguments: argparse.Namespace, say: Callable[[Taken], None]) -> None:
    """Write a run of that many images, export it, read the exports; one row per step."""
    run_folder = folder / f"run-{images}"
    start = time.perf_counter()
    write_run(run_folder, images=images, boxes=arguments.boxes, vocabulary=arguments.vocabulary)
    say({"images": images, "step": "write the run", "seconds": time.perf_counter() - start})
    plain = ["-m", "labeler", "export", str(run_folder), "--threshold", str(arguments.threshold)]
    shard = max(1, images // 10)
    exports = {
        "coco, one file": [*plain, "--to", "coco", "--output", str(folder / "coco.json")],
        "coco, 10 shards": [*plain, "--to", "coco", "--output", str(folder / "coco"), "--images-per-shard", str(shard)],
        "coco, split, near-duplicates": [
            *plain, "--to", "coco", "--output", str(folder / "split"), "--split", "train=0.9,val=0.1",
        ],
        "parquet tables": [*plain, "--to", "parquet", "--output", str(folder / "tables")],
    }  # fmt: skip
    for name, command in exports.items():
        say(_row_of(images, name, in_child(*command)))
    reads = {
        "pycocotools, one shard": (
            f"from pycocotools.coco import COCO; COCO({str(folder / 'coco' / 'labels-00000.json')!r})"
        ),
        "duckdb, boxes a category": (
            f"import duckdb; duckdb.sql(\"select category, count(*), avg(score) from '{folder}/tables/boxes/*.parquet' "
            'group by 1").fetchall()'
        ),
        "pyarrow, boxes": f"import pyarrow.parquet as pq; pq.read_table({str(folder / 'tables' / 'boxes')!r})",
        "datasets, images": (
            f"import datasets; datasets.Dataset.from_parquet({str(folder / 'tables' / 'images')!r} + '/*.parquet', "
            f"cache_dir={str(folder / 'cache')!r})"
        ),
    }
    for name, program in reads.items():
        say(_row_of(images, name, in_child("-c", program)))
    for path in (run_folder, *(folder / name for name in ("coco", "split", "tables", "cache"))):
        shutil.rmtree(path, ignore_errors=True)
    (folder / "coco.json").unlink()


def _row_of(images: int, name: str, taken: tuple[float, float, float]) -> Taken:
    return {"images": images, "step": name, "seconds": taken[0], "cpu_seconds": taken[1], "peak_mb": taken[2]}


def _print(row: Taken) -> None:
    text = f"{row['images']:>9,} images  {row['step']:28} {row['seconds']:8.1f} s"
    if "peak_mb" in row:
        text += f" {row['cpu_seconds']:8.1f} s CPU {row['peak_mb']:8.0f} MB peak"
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export_scale", description=__doc__)
    parser.add_argument("folder", type=Path, help="an empty folder with room: about 2.5 KB an image")
    parser.add_argument("--images", type=int, nargs="+", default=[20_000], help="sizes of the run, one after the other")
    parser.add_argument("--boxes", type=int, default=30, help="stored boxes an image (default 30)")
    parser.add_argument("--threshold", type=float, default=0.3, help="of the exports (default 0.3)")
    parser.add_argument("--vocabulary", default="lvis_v1")
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows: list[Taken] = []

    def say(row: Taken) -> None:
        rows.append(row)
        _print(row)

    for images in arguments.images:
        measure(arguments.folder, images, arguments, say)
    if arguments.output:
        asked = {"boxes": arguments.boxes, "threshold": arguments.threshold, "vocabulary": arguments.vocabulary}
        arguments.output.write_text(json.dumps({"machine": machine(), **asked, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
