"""Asked precision, and the precision and recall reached on images that calibration did not see.

`python -m benchmarks.calibration_table RUN --annotations gt.json` fits on one half of the annotated images and measures
on the other; the halves come from the file names, so they are the same in every run. It does so twice: with a threshold
for each category, as `labeler calibrate` does, and with one threshold for all of them, fitted on all boxes together.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from labeler import storage
from labeler.calibration import Target, calibrate_by_annotations
from labeler.calibration.threshold_file import to_yaml
from labeler.commands.arguments import require_run
from labeler.errors import LabelerError
from labeler.evaluation import evaluate_run
from labeler.exports.splits import key_of
from labeler.labels.thresholds import NEVER
from labeler.runs import Run, read_snapshot

WAYS = {"a category": 30, "all together": sys.maxsize}  # judged boxes below which a category takes the common threshold


@dataclass(frozen=True)
class Reached:
    """Result of one target.

    Attributes:
        way: what has a threshold of its own.
        precision, recall, boxes: on the unseen half, over all categories together.
        categories_met: of the `categories` with any box there, those whose precision there is the target or better.
        left_out: categories that nothing is kept of: on the half seen they reach the target nowhere.
    """

    way: str
    asked: float
    precision: float
    recall: float
    boxes: int
    categories_met: int
    categories: int
    left_out: int


def halves(truth: Mapping[str, Any], split: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """The annotated images in two parts; each `split` parts them otherwise."""
    before = f"{split}/" if split else ""
    seen = {image["id"] for image in truth["images"] if key_of(before + image["file_name"]) % 2 == 0}
    parts = []
    for wanted in (True, False):
        images = [image for image in truth["images"] if (image["id"] in seen) == wanted]
        objects = [one for one in truth["annotations"] if (one["image_id"] in seen) == wanted]
        parts.append({**truth, "images": images, "annotations": objects})
    return parts[0], parts[1]


def measure(
    run: Run,
    parts: tuple[Mapping[str, Any], Mapping[str, Any]],
    asked: float,
    *,
    way: str,
    confidence: float,
    partial: bool = False,
) -> Reached:
    """Fit on one part, measure on the other with the file that was written."""
    seen, unseen = parts
    target = Target("precision", asked, confidence, WAYS[way])
    calibration = calibrate_by_annotations(read_snapshot(run), seen, target, partial=partial)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "thresholds.yaml"
        file.write_bytes(to_yaml(calibration, run, source="one half"))
        score = evaluate_run(run.uri, unseen, thresholds=str(file), partial=partial).scores[0]
    true, false = score.true_positives[:, 0], score.false_positives[:, 0]
    found = true + false
    return Reached(
        way=way,
        asked=asked,
        precision=round(float(true.sum() / max(1, found.sum())), 4),
        recall=round(float(true.sum() / max(1, score.objects.sum())), 4),
        boxes=int(found.sum()),
        categories_met=int(np.count_nonzero(true[found > 0] >= asked * found[found > 0])),
        categories=int(np.count_nonzero(found)),
        left_out=sum(choice.threshold >= NEVER for choice in calibration.choices),
    )


def result_of(
    run: Run, parts: tuple[Mapping[str, Any], Mapping[str, Any]], rows: Sequence[Reached], *, confidence: float
) -> dict[str, Any]:
    """What goes into a result file."""
    seen, unseen = parts
    sides = {
        name: {"images": len(half["images"]), "objects": len(half["annotations"])}
        for name, half in (("fitted_on", seen), ("measured_on", unseen))
    }
    about = {"model": run.manifest.config["model"]["name"], "model_digest": run.manifest.fingerprint_fields["model"]}
    rest = {"truth": seen.get("info", {}), **sides, "confidence": confidence, "rows": [asdict(row) for row in rows]}
    return {"machine": machine(), **about, "run": run.manifest.run_id, **rest}


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    rows = []
    try:
        run, truth = require_run(asked.run_uri), json.loads(storage.read_bytes(asked.annotations))
        parts = halves(truth, asked.split)
        print(f"{'a threshold for':16} asked  reached  recall   boxes  categories that reach it, excluded")
        for way in WAYS:
            for text in asked.targets.split(","):
                row = measure(run, parts, float(text), way=way, confidence=asked.confidence, partial=asked.partial)
                rows.append(row)
                print(
                    f"{way:16} {row.asked:5.2f}  {row.precision:7.3f}  {row.recall:6.3f}  {row.boxes:6,}  "
                    f"{row.categories_met:,} of {row.categories:,}, {row.left_out:,}",
                    flush=True,
                )
    except LabelerError as error:
        print(f"calibration_table: {error}", file=sys.stderr)
        return error.exit_code
    if asked.output:
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        asked.output.write_text(json.dumps(result_of(run, parts, rows, confidence=asked.confidence), indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration_table", description=__doc__)
    parser.add_argument("run_uri", metavar="RUN")
    parser.add_argument("--annotations", required=True, metavar="URI")
    parser.add_argument("--targets", default="0.6,0.7,0.8,0.9,0.95")
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--split", type=int, default=0, help="a number that parts the images otherwise")
    parser.add_argument("--partial", action="store_true", help="skip categories without objects in one half")
    parser.add_argument("--output", type=Path, help="JSON to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
