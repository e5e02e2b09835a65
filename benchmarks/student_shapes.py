"""A student trained on a teacher's labels, side by side with it: synthetic scenes, one CPU core, some minutes.

    python -m benchmarks.student_shapes FOLDER --output benchmarks/results/student-shapes.json

`models/shapes` labels synthetic scenes of eight names, `labeler export` writes them for trainers.
examples/train_student trains an RT-DETR of 1.4 million parameters on them from random weights, and both label scenes
that are new to them.
True boxes are used to judge only. Needs accelerate (examples/train_student/requirements.txt).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.export_scale import in_child
from benchmarks.machine import machine
from benchmarks.small_shapes import HELD_OUT_SEED, NAMES, TRAINING_SEED, write_scenes
from benchmarks.without_ray import label_here
from labeler.cli import main as labeler
from labeler.config import make_config

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "examples" / "train_student" / "train.py"
THRESHOLD = 0.3  # of the teacher's boxes that the student learns from
TEACHER = {"vocabulary": list(NAMES), "model": {"name": str(ROOT / "models" / "shapes")}}


def label(data: Path, output: Path, settings: dict[str, Any]) -> None:
    label_here(make_config({"input": str(data / "shards"), "output": str(output), **settings}), threads=1)


def judged(run: Path, annotations: str) -> dict[str, Any]:
    """What `labeler evaluate` says of a run's boxes."""
    if code := labeler(["evaluate", str(run), "--annotations", annotations, "--categories-by-name"]):
        raise RuntimeError(f"labeler evaluate ended with exit code {code}")
    found = json.loads((run / "evaluation.json").read_text())["scores"][0]
    return {name: round(found[name], 3) for name in ("AP", "AP50", "AP75")}


def export(run: Path, target: Path) -> None:
    options = ["--layout", "roboflow", "--images", "copy", "--split", "train=0.95,val=0.05"]
    options += ["--threshold", str(THRESHOLD), "--output", str(target)]
    if code := labeler(["export", str(run), "--to", "coco", *options]):
        raise RuntimeError(f"labeler export ended with exit code {code}")


def measure(folder: Path, *, scenes: int, held_out: int, steps: int) -> dict[str, Any]:
    """The whole chain; a row for the teacher and one for the student."""
    write_scenes(folder / "data", scenes, TRAINING_SEED)
    truth = write_scenes(folder / "held-out", held_out, HELD_OUT_SEED).annotations
    for name in ("data", "held-out"):
        label(folder / name, folder / f"teacher-{name}", TEACHER)
    export(folder / "teacher-data", folder / "export")
    command = [str(SCRIPT), str(folder / "export"), "--output", str(folder / "student"), "--steps", str(steps)]
    seconds, cpu, peak = in_child(*command)
    student = {"vocabulary": "from_model", "model": {"name": str(folder / "student")}}
    label(folder / "held-out", folder / "student-held-out", student)
    return {
        "scenes": scenes,
        "held_out_scenes": held_out,
        "steps": steps,
        "training": {"seconds": round(seconds), "cpu_seconds": round(cpu), "peak_mb": round(peak)},
        "teacher": judged(folder / "teacher-held-out", truth),
        "student": judged(folder / "student-held-out", truth),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--scenes", type=int, default=1000, help="that the teacher labels")
    parser.add_argument("--held-out", type=int, default=200, help="scenes to judge both on")
    parser.add_argument("--steps", type=int, default=1500, help="of 16 images each")
    parser.add_argument("--output", type=Path, help="JSON to write")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True)
    found = measure(asked.folder, scenes=asked.scenes, held_out=asked.held_out, steps=asked.steps)
    print(json.dumps(found, indent=1))
    if asked.output:
        asked.output.write_text(json.dumps({"machine": machine(), **found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
