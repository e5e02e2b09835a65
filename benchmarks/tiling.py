"""What do tiles find, and what do they cost? Large synthetic scenes with shapes of all sizes, labeled with and without.

    python -m benchmarks.tiling --scenes 8 --output result.json

Scenes of SIDE x SIDE pixels, in equal parts with many small, many medium and a few large shapes, go through the code
that labels the units of a run, with `models/shapes`, which takes images at 128 pixels. "cut boxes kept" has the tiles
of the way before it, but merges every box that an inner edge cuts, too.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import machine
from benchmarks.small_shapes import NAMES
from labeler.config import make_config
from labeler.images.tiling import View
from labeler.labeling.recipe import labeler_here
from labeler.labeling.resolve import resolve_job
from labeler.labels.boxes import iou
from labeler.labels.detections import Detections
from labeler.labels.records import LABELED
from labeler.shards import Item
from labeler.training import shapes
from labeler.training.shapes.scenes import draw_scene
from labeler.training.validation import SCORE, ValidationImage, ValidationSet, measure
from labeler.vocabulary import Category, Vocabulary

SIDE, SEED = 1600, 4711
# (radii in parts of the side, most objects): shapes across 64 to 85, 96 to 256 and 320 to 960 pixels
KINDS = (((0.02, 0.04), 60), ((0.03, 0.12), 30), ((0.1, 0.3), 5))
EDGES = (0, 100, 200, 400, math.inf)  # limits of the sizes: the root of a box's area, in pixels
EVERYTHING = (-math.inf, -math.inf, math.inf, math.inf)


@dataclass(frozen=True)
class Way:
    """One way to look at the scenes.

    Attributes:
        tiles: options of `detect`.
        cut_boxes: whether boxes that an inner edge cuts are kept.
    """

    name: str
    tiles: Mapping[str, Any] = field(default_factory=dict)
    cut_boxes: bool = False


WAYS = (
    Way("no tiles"),
    Way("640, overlap 0.2", {"tile": 640, "tile_overlap": 0.2}),
    Way("320, overlap 0.2", {"tile": 320, "tile_overlap": 0.2}),
    Way("320, overlap 0.5", {"tile": 320, "tile_overlap": 0.5}),
    Way("320, overlap 0.5, cut boxes kept", {"tile": 320, "tile_overlap": 0.5}, cut_boxes=True),
)


def draw(scenes: int) -> ValidationSet:
    """Return this many scenes of each kind, and their ground truth."""
    chosen = shapes.select(NAMES)
    drawn = [
        draw_scene(SEED + kind, i, sizes=[(SIDE, SIDE)], combinations=chosen, radii=radii, max_objects=most)
        for kind, (radii, most) in enumerate(KINDS)
        for i in range(scenes)
    ]
    images = tuple(ValidationImage(s.image, s.boxes_xyxy, s.category_ids.astype(np.int64)) for s in drawn)
    vocabulary = Vocabulary("shapes", tuple(Category(c.category_id, c.name, (c.name,)) for c in chosen))
    return ValidationSet(images, vocabulary, {"all": frozenset(c.category_id for c in chosen)})


def items_of(data: ValidationSet) -> Iterator[Item]:
    for number, image in enumerate(data.images):
        out = io.BytesIO()
        Image.fromarray(image.pixels).save(out, "PNG", compress_level=1)
        yield Item(f"{number}.png", number, "drawn", None, None, out.getvalue())


def label(items: Sequence[Item], way: Way, model: Path, vocabulary: Vocabulary) -> tuple[list[Detections], Any]:
    """What is found in each scene, and the passes and CPU seconds that it took."""
    detect = {"max_detections": 300, **way.tiles}
    named = [{"id": category.id, "name": category.name} for category in vocabulary.categories]
    values = {"input": "drawn", "output": "nowhere", "vocabulary": named, "model": {"name": str(model)}}
    labeler = labeler_here(resolve_job(make_config({**values, "detect": detect, "ray": {"cpus_per_worker": 1}})))
    keeping: AbstractContextManager[Any] = patch.object(View, "whole", EVERYTHING) if way.cut_boxes else nullcontext()
    cpu = time.process_time()
    with keeping:
        rows, work = labeler.label("000000", items)
    cpu = time.process_time() - cpu
    assert all(row.status in LABELED for row in rows)
    return [row.detections for row in rows], {"passes": work.passes / len(items), "cpu_s": cpu / len(items)}


def by_size(data: ValidationSet, found: Sequence[Detections]) -> dict[str, Any]:
    """Of the objects of each size how many have a box, best scores first, at a score of SCORE and an IoU of 0.5."""
    there, right = np.zeros(len(EDGES) - 1, int), np.zeros(len(EDGES) - 1, int)
    wrong = 0
    for image, detections in zip(data.images, found, strict=True):
        sizes = np.sqrt(np.prod(image.boxes[:, 2:] - image.boxes[:, :2], axis=1))
        size_of = np.digitize(sizes, EDGES) - 1
        there += np.bincount(size_of, minlength=len(there))
        free = np.ones(len(image.boxes), np.bool_)
        shown = detections.above(SCORE).sorted()
        overlaps = iou(shown.boxes, image.boxes)
        for row, category_id in enumerate(shown.category_ids):
            fitting = np.where(free & (image.category_ids == category_id), overlaps[row], 0.0)
            if len(fitting) and fitting.max() >= 0.5:
                free[fitting.argmax()] = False
                right[size_of[fitting.argmax()]] += 1
            else:
                wrong += 1
    names = [f"{low:g} to {high:g}" if high < math.inf else f"{low:g} on" for low, high in pairwise(EDGES)]
    return {
        "objects": dict(zip(names, there.tolist(), strict=True)),
        "recall": {n: round(r / t, 4) if t else None for n, r, t in zip(names, right, there, strict=True)},
        "precision": round(float(right.sum() / max(1, right.sum() + wrong)), 4),
    }


def measured(scenes: int, model: Path) -> dict[str, Any]:
    data = draw(scenes)
    items, rows = list(items_of(data)), []
    for way in WAYS:
        found, cost = label(items, way, model, data.vocabulary)
        row = {"way": way.name, **cost, "ap": measure(data, found).get("ap_all"), **by_size(data, found)}
        rows.append(row)
        _print(row, head=len(rows) == 1)
    return {"images": len(items), "side": SIDE, "rows": rows}


def _print(row: Mapping[str, Any], *, head: bool) -> None:
    if head:
        print(
            f"{'':34}{'passes':>8}{'CPU s':>8}{'AP':>8}{'precision':>11}" + "".join(f"{n:>12}" for n in row["recall"])
        )
        print(f"{'objects':69}" + "".join(f"{count:12}" for count in row["objects"].values()))
    recalls = "".join(f"{'' if r is None else format(r, '.3f'):>12}" for r in row["recall"].values())
    print(
        f"{row['way']:34}{row['passes']:8.1f}{row['cpu_s']:8.2f}{row['ap'] or 0:8.3f}{row['precision']:11.3f}{recalls}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/shapes"))
    parser.add_argument("--scenes", type=int, default=8, help="of each of the three kinds")
    parser.add_argument("--output", type=Path, help="JSON to write")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    result = {"machine": machine(), **measured(asked.scenes, asked.model)}
    if asked.output:
        asked.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
