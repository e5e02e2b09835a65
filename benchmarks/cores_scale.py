"""What reading and exporting a run takes per million rows, by one process and by several: two sizes give the slope.

    python -m benchmarks.cores_scale FOLDER --images 50000 100000 --output benchmarks/results/cores-scale.json

Rows are synthetic (`benchmarks.export_scale`, 256 images a unit). Each figure is of child processes. The last line of
each way says what its slope means for 100 million images on 16 cores, if CPU time stays proportional to rows and all
cores are busy all the time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.export_scale import Stored, in_child, write_run
from benchmarks.machine import machine
from labeler.digests import digest_of
from labeler.exports.encoded import encode_image

SIDE = 640  # pixels; `write_run` says so of every row
CORES, IMAGES = 16, 100_000_000
_OPEN = "from labeler.runs import open_run, read_snapshot; snapshot = read_snapshot(open_run({run!r})); "
_VERIFY = (
    "from labeler.runs.erasure.excluded import Excluded; from labeler.runs.sums_of_units import sum_units; "
    "assert sum(1 for _ in sum_units(snapshot, Excluded(), processes={processes}))"
)
_EXPORT = (
    "from labeler.exports.export import export_run; from labeler.exports.selection import Selection; "
    "from labeler.labels.thresholds import Thresholds; {imports}; "
    "selection = Selection(thresholds=Thresholds(0.3), suppress_iou=0.9); "
    "export_run(snapshot, selection, {format}, {target!r}, processes={processes})"
)
# `part` images make a part, so that each way has twenty of them.
WAYS = {
    "verify": _VERIFY,
    "coco": _EXPORT.replace("{imports}", "from labeler.exports.coco_files import CocoFormat").replace(
        "{format}", "CocoFormat(images_per_part={part})"
    ),
    "parquet": _EXPORT.replace("{imports}", "from labeler.exports.parquet_tables import TablesFormat").replace(
        "{format}", "TablesFormat(rows_per_part=9 * {part})"
    ),
    "yolo": _EXPORT.replace("{imports}", "from labeler.exports.yolo import YoloFormat").replace(
        "{format}", "YoloFormat(images_per_part={part})"
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cores_scale", description=__doc__)
    parser.add_argument("folder", type=Path, help="an empty folder with room: 2.5 KB an image, and 10 KB with yolo")
    parser.add_argument("--images", type=int, nargs=2, default=[10_000, 20_000], help="two sizes")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--boxes", type=int, default=30, help="stored boxes an image (default 30)")
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pictures = stored_pictures(arguments.folder / "pictures.bin")
    rows: list[dict[str, Any]] = []
    for images in arguments.images:
        run = arguments.folder / f"run-{images}"
        write_run(run, images=images, boxes=arguments.boxes, vocabulary="lvis_v1", pictures=pictures)
        for way in arguments.ways:
            for processes in arguments.processes:
                rows.append(measure(arguments.folder, run, images, way, processes))
                print(json.dumps(rows[-1]), flush=True)
        shutil.rmtree(run)
    slopes = [slope(rows, way, processes) for way in arguments.ways for processes in arguments.processes]
    print("\n".join(json.dumps(each) for each in slopes))
    if arguments.output:
        found = {"machine": machine(), "boxes": arguments.boxes, "rows": rows, "slopes": slopes}
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def stored_pictures(path: Path) -> list[Stored]:
    """Eight JPEGs of noise, one after the other in a file."""
    rng, pictures = np.random.default_rng(0), list[Stored]()
    with path.open("wb") as file:
        for _ in range(8):
            coarse = rng.integers(0, 255, (SIDE // 40, SIDE // 40, 3), np.uint8)
            data = encode_image(np.kron(coarse, np.ones((40, 40, 1), np.uint8)), "jpg")
            pictures.append(Stored(str(path), file.tell(), len(data), digest_of(data)))
            file.write(data)
    return pictures


def measure(folder: Path, run: Path, images: int, way: str, processes: int) -> dict[str, Any]:
    """Seconds of one way over a run."""
    target = folder / "out"
    values = {"run": str(run), "target": str(target), "part": images // 20, "processes": processes}
    program = "if __name__ == '__main__': " + (_OPEN + WAYS[way]).format(**values)
    seconds, cpu, peak = in_child("-c", program)
    shutil.rmtree(target, ignore_errors=True)
    figures = {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "peak_mb": round(peak)}
    return {"way": way, "processes": processes, "images": images, **figures}


def slope(rows: Sequence[dict[str, Any]], way: str, processes: int) -> dict[str, Any]:
    """Per million rows, and minutes for 100 million on 16 cores by CPU time."""
    small, large = (row for row in rows if (row["way"], row["processes"]) == (way, processes))
    per_image = {
        name: (large[name] - small[name]) / (large["images"] - small["images"]) for name in ("seconds", "cpu_seconds")
    }
    millions = {f"{name}_per_million": round(1e6 * value, 1) for name, value in per_image.items()}
    minutes = per_image["cpu_seconds"] * IMAGES / CORES / 60
    return {"way": way, "processes": processes, **millions, "minutes_of_16_cores_for_100_million": round(minutes, 1)}


if __name__ == "__main__":
    sys.exit(main())
