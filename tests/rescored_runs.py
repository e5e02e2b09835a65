"""A run whose boxes have second scores, over drawn rows, and the ground truth of its images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from labeler.labels.detections import Detections
from labeler.runs import Run
from tests.label_runs import CATEGORIES, row, write_run

FIELDS = {"rescore": "c1", "rescore.margin": 0.1, "rescore.prompts": "p1", "rescore.version": 1}
PER_IMAGE = 20


def rescored_run(folder: Path, *, images: int = 40, seed: int = 0, missing: int = 0) -> tuple[Run, dict[str, Any]]:
    """Boxes of two categories, right half of the time; each score says something of it, and each something else.

    Args:
        missing: of the first boxes of each image, that have no second score.
    """
    rng = np.random.default_rng(seed)
    rows, truth = [], {"images": [], "annotations": [], "categories": [c for c in CATEGORIES if "negative" not in c]}
    for index in range(images):
        right = rng.random(PER_IMAGE) < 0.5
        logits = rng.normal(0, 1.2, (2, PER_IMAGE)) + np.where(right, 1.0, -1.0)
        first, second = (1 / (1 + np.exp(-logits))).astype(np.float32)
        x = 30.0 * np.arange(PER_IMAGE)
        boxes = np.stack([x, x * 0, x + 20, x * 0 + 20], 1)
        ids = np.where(np.arange(PER_IMAGE) % 2, 3, 8)
        second[:missing] = np.nan
        found = replace(Detections.of(boxes, first, ids), more={"score2": second})
        order = found.order()
        rows.append(row(index, found[order], width=640))
        truth["images"].append({"id": index + 1, "file_name": f"part-0.tar/{index}.jpg", "width": 640, "height": 480})
        for place in np.flatnonzero(right):
            box = [float(x[place]), 0.0, 20.0, 20.0]
            about = {"id": len(truth["annotations"]) + 1, "image_id": index + 1, "iscrowd": 0, "area": 400.0}
            truth["annotations"].append({**about, "category_id": int(ids[place]), "bbox": box})
    run = write_run(folder, {(0, 0): rows}, columns=("score2",), fields=FIELDS)
    return run, truth
