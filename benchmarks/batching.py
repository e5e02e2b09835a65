"""How full are forward passes? Images are never padded, so only images of one resized shape share one.

    python -m benchmarks.batching annotations.json --output benchmarks/results/batching.json

Takes the sizes of the images of COCO or LVIS annotation files, draws units of them, and counts the forward passes of
one prompt chunk: in input order, and in the order of labeling. Counting needs no images and no
model.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import machine
from labeler.labeling.batching import ShapePool
from labeler.prompts.image_rule import resized_shape

Shape = tuple[int, int]


def forwards_in_order(unit: Sequence[Shape], batch: int) -> int:
    return sum(len(set(unit[start : start + batch])) for start in range(0, len(unit), batch))


def forwards_pooled(unit: Sequence[Shape], batch: int) -> int:
    pool: ShapePool[Shape] = ShapePool(batch)
    return sum(len(pool.add(shape, shape, 3 * shape[0] * shape[1])) for shape in unit) + sum(1 for _ in pool.rest())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path, nargs="+", help="COCO or LVIS JSON with the images' sizes")
    parser.add_argument("--edges", type=int, nargs=2, default=(800, 1333), help="the detector's (default 800 1333)")
    parser.add_argument("--unit", type=int, default=256, help="images a unit (default 256)")
    parser.add_argument("--units", type=int, default=200, help="units drawn (default 200)")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    images = [image for file in arguments.annotations for image in json.loads(file.read_text())["images"]]
    shapes = [resized_shape(image["height"], image["width"], *arguments.edges) for image in images]
    print(f"{len(shapes)} images of {len(set(shapes))} shapes; images per forward pass, of units of {arguments.unit}")
    rng, rows = random.Random(0), []
    units = [rng.choices(shapes, k=arguments.unit) for _ in range(arguments.units)]
    for batch in arguments.batches:
        full = {
            name: arguments.unit / statistics.mean(count(unit, batch) for unit in units)
            for name, count in (("in order", forwards_in_order), ("pooled", forwards_pooled))
        }
        rows.append({"batch": batch, **full})
        print(f"at most {batch:3}: {full['in order']:5.2f} in order, {full['pooled']:5.2f} put together by shape")
    if arguments.output:
        result = {"machine": machine(), "images": len(shapes), "shapes": len(set(shapes)), "rows": rows}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
