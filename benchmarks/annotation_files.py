"""What reading a large COCO file takes: CPU seconds, and the peak of memory beyond what the process had before.

    python -m benchmarks.annotation_files --output benchmarks/results/annotation-files.json

The file is made up: polygons as COCO has them, 14 objects an image. Each way to read it has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.machine import machine

OBJECTS_AN_IMAGE, CATEGORIES, NUMBERS = 14, 80, 46  # of a polygon


def write_coco(path: Path, images: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    annotations = [
        {
            "segmentation": [rng.uniform(0, 600, NUMBERS).round(2).tolist()],
            "area": float(rng.uniform(1, 90_000)),
            "iscrowd": 0,
            "image_id": number // OBJECTS_AN_IMAGE,
            "bbox": rng.uniform(0, 300, 4).round(2).tolist(),
            "category_id": int(rng.integers(1, CATEGORIES + 1)),
            "id": number + 1,
        }
        for number in range(images * OBJECTS_AN_IMAGE)
    ]
    document = {
        "info": {"description": "made up"},
        "images": [{"id": n, "file_name": f"{n:012d}.jpg", "height": 427, "width": 640} for n in range(images)],
        "annotations": annotations,
        "categories": [{"id": n, "name": f"thing {n}"} for n in range(1, CATEGORIES + 1)],
    }
    path.write_text(json.dumps(document))


def all_at_once(path: str) -> None:
    with open(path) as file:
        json.load(file)


def as_annotations(path: str) -> None:
    from labeler.truth.ground_truth import read_ground_truth

    read_ground_truth(path)


def as_a_vocabulary(path: str) -> None:
    from labeler.vocabulary import Vocabulary

    Vocabulary.load(path)


WAYS: dict[str, Callable[[str], None]] = {
    "json.load": all_at_once,
    "read_ground_truth": as_annotations,
    "Vocabulary.load": as_a_vocabulary,
}


def measure(way: str, path: str) -> dict[str, float]:
    """What one way takes, in this process."""
    import labeler.evaluation  # noqa: F401 - what is loaded before counts for no way

    before, started = _peak_mib(), time.process_time()
    WAYS[way](path)
    return {"cpu_s": round(time.process_time() - started, 2), "mib": _peak_mib() - before}


def _peak_mib() -> int:
    status = Path("/proc/self/status").read_text()  # not getrusage: that counts the parent's memory before `exec`, too
    return int(status.split("VmHWM:")[1].split()[0]) >> 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=9000)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(*arguments.child)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.json"
        write_coco(path, arguments.images)
        found = {}
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.annotation_files", "--child", way, str(path)]
            found[way] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(f"{way:18} {found[way]['cpu_s']:6.2f} CPU s  {found[way]['mib']:5} MiB")
        result = {"machine": machine(), "file_mb": round(path.stat().st_size / 1e6, 1), "ways": found}
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
