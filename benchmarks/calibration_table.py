"""Asked precision, and the precision and recall reached on images that calibration did not see.

`python -m benchmarks.calibration_table RUN --annotations gt.json` fits on one half of the annotated images and measures
on the other; the halves come from the file names, so they are the same in every run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labeler import storage
from labeler.calibration import Target, calibrate_by_annotations
from labeler.calibration.threshold_file import to_yaml
from labeler.commands.arguments import require_run
from labeler.errors import LabelerError
from labeler.evaluation import evaluate_run
from labeler.exports.splits import key_of
from labeler.runs import Run


@dataclass(frozen=True)
class Reached:
    """On the unseen half: all boxes together, and how many categories with any box reach the target by themselves."""

    asked: float
    precision: float
    recall: float
    boxes: int
    categories_met: int
    categories: int


def halves(truth: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The annotated images in two parts."""
    seen = {image["id"] for image in truth["images"] if key_of(image["file_name"]) % 2 == 0}
    parts = []
    for wanted in (True, False):
        images = [image for image in truth["images"] if (image["id"] in seen) == wanted]
        objects = [one for one in truth["annotations"] if (one["image_id"] in seen) == wanted]
        parts.append({**truth, "images": images, "annotations": objects})
    return parts[0], parts[1]


def measure(run: Run, truth: Mapping[str, Any], asked: float, *, confidence: float, partial: bool = False) -> Reached:
    """Fit on one half, measure on the other with the file that was written."""
    seen, unseen = halves(truth)
    calibration = calibrate_by_annotations(run, seen, Target("precision", asked, confidence), partial=partial)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "thresholds.yaml"
        file.write_bytes(to_yaml(calibration, run, source="one half"))
        score = evaluate_run(run.uri, unseen, thresholds=str(file), partial=partial).scores[0]
    true, false = score.true_positives[:, 0], score.false_positives[:, 0]
    found = true + false
    return Reached(
        asked,
        float(true.sum() / max(1, found.sum())),
        float(true.sum() / max(1, score.objects.sum())),
        int(found.sum()),
        int(np.count_nonzero(true[found > 0] >= asked * found[found > 0])),
        int(np.count_nonzero(found)),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration_table", description=__doc__)
    parser.add_argument("run_uri", metavar="RUN")
    parser.add_argument("--annotations", required=True, metavar="URI")
    parser.add_argument("--targets", default="0.6,0.7,0.8,0.9,0.95")
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--partial", action="store_true", help="categories without objects in one half are left out")
    asked = parser.parse_args(arguments)
    try:
        run, truth = require_run(asked.run_uri), json.loads(storage.read_bytes(asked.annotations))
        print("asked  reached  recall   boxes  categories that reach it")
        for text in asked.targets.split(","):
            row = measure(run, truth, float(text), confidence=asked.confidence, partial=asked.partial)
            print(
                f"{row.asked:5.2f}  {row.precision:7.3f}  {row.recall:6.3f}  {row.boxes:6,}  "
                f"{row.categories_met:,} of {row.categories:,}",
                flush=True,
            )
    except LabelerError as error:
        print(f"calibration_table: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
