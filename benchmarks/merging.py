"""What merging an image's chunks costs: as it is, and one box compared with the rest at a time; CPU ms an image.

    python -m benchmarks.merging --output benchmarks/results/merging.json

The worst case: every one of 900 queries a chunk is above the floor, and boxes are drawn, so that few suppress others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.machine import machine
from labeler.labels.boxes import iou
from labeler.labels.detections import Detections
from labeler.labels.merge import merge

QUERIES, CATEGORIES_A_CHUNK, HEIGHT, WIDTH = 900, 80, 800, 1333
NMS_IOU, MAX_DETECTIONS = 0.7, 300  # the defaults
CASES = {f"{chunks} x {QUERIES}, {chunks * CATEGORIES_A_CHUNK} categories": (chunks, False) for chunks in (1, 4, 15)}
CASES[f"1 x {QUERIES}, 1 category"] = (1, True)


def candidates(chunks: int, *, one_category: bool, seed: int = 0) -> Detections:
    """Drawn boxes, `QUERIES` of each chunk, with categories of that chunk only."""
    rng = np.random.default_rng(seed)
    count = chunks * QUERIES
    centre, half = rng.random((count, 2)), rng.random((count, 2)) / 4
    boxes = np.clip(np.concatenate([centre - half, centre + half], axis=1), 0, 1) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    chunk = np.repeat(np.arange(chunks), QUERIES)
    category = chunk * CATEGORIES_A_CHUNK + rng.integers(0, CATEGORIES_A_CHUNK, count)
    return Detections.of(boxes, rng.uniform(0.05, 0.6, count), np.zeros(count) if one_category else category, chunk)


def one_at_a_time(found: Detections) -> Detections:
    """All boxes of a category, each compared with all behind it: what `merge` equals."""
    ordered = found.sorted()
    kept = np.ones(len(ordered), np.bool_)
    for category_id in np.unique(ordered.category_ids):
        rows = np.flatnonzero(ordered.category_ids == category_id)
        for place, row in enumerate(rows[:-1]):
            if kept[row]:
                behind = rows[place + 1 :]
                kept[behind] &= iou(ordered.boxes[row], ordered.boxes[behind])[0] <= NMS_IOU
    return ordered[kept].top(MAX_DETECTIONS)


def as_it_is(found: Detections) -> Detections:
    return merge(found, nms_iou=NMS_IOU, max_detections=MAX_DETECTIONS)


WAYS: dict[str, Callable[[Detections], Detections]] = {"one at a time": one_at_a_time, "merge": as_it_is}


def measure(found: Detections, rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds of each way, round by round and in turn; they give the same boxes."""
    took: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        results = []
        for name, way in WAYS.items():
            start = time.thread_time()
            results.append(way(found))
            took[name].append(1000 * (time.thread_time() - start))
        if not np.array_equal(results[0].boxes, results[1].boxes):
            raise SystemExit("the two ways differ")
    return took


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args(argv)
    print(f"{'ms an image, median (range)':32}" + "".join(f"{name:>24}" for name in WAYS))
    cases = {}
    for case, (chunks, one_category) in CASES.items():
        took = cases[case] = measure(candidates(chunks, one_category=one_category), arguments.rounds)
        figures = [f"{statistics.median(ms):.1f} ({min(ms):.1f} to {max(ms):.1f})" for ms in took.values()]
        print(f"{case:32}" + "".join(f"{figure:>24}" for figure in figures), flush=True)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        result = {"machine": machine(), "max_detections": MAX_DETECTIONS, "nms_iou": NMS_IOU, "ms": cases}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
