"""Two detectors fused against each alone, on synthetic scenes that are new to both.

    python -m benchmarks.fuse --other /tmp/owl/checkpoint --out /tmp/fuse --output benchmarks/results/fuse.json

`models/shapes` and an OWL that `benchmarks.owl_shapes` has trained label scenes of 128 x 128 pixels with eight names.
Half of the scenes calibrate, the other half judge.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.owl_shapes import TEMPLATE
from benchmarks.small_shapes import NAMES, write_scenes
from labeler.cli import main as labeler

SCENES = 100  # to judge by, and as many to calibrate by
SEED = 4711
SHAPES = Path(__file__).parent.parent / "models" / "shapes"
WAYS = (("wbf", False), ("wbf", True), ("nms", False), ("nms", True))


def draw(out: Path, scenes: int) -> tuple[str, Path, Path]:
    """(folder of shards, ground truth to calibrate by, ground truth to judge by)."""
    drawn = write_scenes(out / "scenes", 2 * scenes, SEED)
    truth = json.loads(Path(drawn.annotations).read_text())
    parts = []
    for name, images in (("calibrate", truth["images"][:scenes]), ("judge", truth["images"][scenes:])):
        ids = {image["id"] for image in images}
        notes = [note for note in truth["annotations"] if note["image_id"] in ids]
        parts.append(out / f"{name}.json")
        parts[-1].write_text(json.dumps({**truth, "images": images, "annotations": notes}))
    return str(Path(drawn.shards[0]).parent), parts[0], parts[1]


def label(run: Path, images: str, model: Path, prompts: dict[str, Any]) -> None:
    config = {
        "input": images,
        "output": str(run),
        "model": {"name": str(model)},
        "vocabulary": list(NAMES),
        "prompts": prompts,
        "ray": {"cpus_per_worker": 1},
    }
    (run.parent / f"{run.name}.yaml").write_text(json.dumps(config))
    assert labeler(["label", str(run.parent / f"{run.name}.yaml")]) == 0


def average_precision(run: Path, truth: Path) -> dict[str, float]:
    """AP, AP50, AP75 and recall of a run."""
    assert labeler(["evaluate", str(run), "--annotations", str(truth), "--categories-by-name"]) == 0
    found = json.loads((run / "evaluation.json").read_text())["scores"][0]
    return {name: round(found[name], 4) for name in ("AP", "AP50", "AP75", "APs", "APm", "AR@100") if found.get(name)}


def compare(runs: Sequence[Path], calibrate: Path, judge: Path) -> dict[str, Any]:
    """AP of each run alone and of each way to fuse them."""
    found = {run.name: average_precision(run, judge) for run in runs}
    for run in runs:
        command = ["calibrate", str(run), "--annotations", str(calibrate), "--target", "precision=0.9"]
        assert labeler([*command, "--categories-by-name"]) == 0
    for method, calibrated in WAYS:
        name = f"fused, {method}, {'calibrated' if calibrated else 'raw'} scores"
        fused = runs[0].parent / name.replace(", ", "-").replace(" ", "-")
        scores = [] if calibrated else ["--raw-scores"]
        command = ["fuse", *map(str, runs), "--method", method, "--output", str(fused), *scores]
        assert labeler(command) == 0
        found[name] = average_precision(fused, judge)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True, help="an OWL checkpoint, see benchmarks.owl_shapes")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--output", type=Path, help="JSON to write")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True)
    images, calibrate, judge = draw(asked.out, asked.scenes)
    runs = [asked.out / "shapes", asked.out / "owl"]
    label(runs[0], images, SHAPES, {})
    label(runs[1], images, asked.other, {"templates": [TEMPLATE]})
    result = {"machine": machine(), "scenes": asked.scenes, "found": compare(runs, calibrate, judge)}
    print(json.dumps(result, indent=1))
    if asked.output:
        asked.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
