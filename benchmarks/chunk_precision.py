"""What chunks do at a fixed threshold: precision, recall and F1 by the number of chunks and by `export --suppress`.

    python -m benchmarks.chunk_precision --images 200

The scenes, names and checkpoint of `benchmarks.chunking`. Categories of one chunk compete for a box, those of different
chunks do not: one object may come out under two names, until suppression across categories leaves the better one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.chunking import read_scenes, write_rows
from labeler.detectors import GroundingDino
from labeler.evaluation import COCO, DetectionTable, read_ground_truth, score
from labeler.evaluation.operating_points import micro
from labeler.labels.boxes import iou
from labeler.labels.detections import Detections
from labeler.labels.merge import suppress_across_categories
from labeler.prompts.grounding_dino import pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.training.validation import ValidationSet, coco_of

THRESHOLD, MATCH_IOU = 0.3, 0.5
CATEGORIES_PER_CHUNK = (None, 20, 10)  # of 80: one, four and eight chunks
SUPPRESSIONS = (None, 0.9, 0.7, 0.5, 0.3)


@dataclass(frozen=True)
class Row:
    """One way to ask and to suppress.

    Attributes:
        suppress_iou: as `export --suppress`; None: off.
        precision, recall, f1: at THRESHOLD and IoU 0.5, all categories together.
        best_f1, best_threshold: at the threshold that is best for this way.
        two_names: part of the objects that boxes of more than one category cover, at THRESHOLD.
    """

    chunks: int
    suppress_iou: float | None
    precision: float
    recall: float
    f1: float
    best_f1: float
    best_threshold: float
    two_names: float


def detect(model: Path, data: ValidationSet, per_chunk: int | None) -> tuple[int, list[Detections]]:
    """The number of chunks, and what is found in each image."""
    prompts = pack(data.vocabulary, Tokenizer.load(model), max_tokens=256, max_categories=per_chunk)
    detector = GroundingDino(model, prompts, device="cpu", threads=torch.get_num_threads())
    return len(prompts.chunks), detector.detect([image.pixels for image in data.images])


def judge(data: ValidationSet, chunks: int, found: Sequence[Detections], suppress_iou: float | None) -> Row:
    """Precision and recall of what an export at one threshold keeps.

    Only better boxes suppress, so suppressing first and cutting at a threshold then leaves what an export leaves.
    """
    truth = read_ground_truth(coco_of(data))
    if suppress_iou is not None:
        found = [suppress_across_categories(each, iou_above=suppress_iou) for each in found]
    points = micro(score(truth, DetectionTable.of(truth, dict(enumerate(found, 1))), COCO), floor=0.05)
    asked, best = int(np.abs(points.thresholds - THRESHOLD).argmin()), points.best or 0
    values = (points.precision[asked], points.recall[asked], points.f1[asked], points.f1[best], points.thresholds[best])
    names = two_names(data, [each.above(THRESHOLD) for each in found])
    return Row(chunks, suppress_iou, *(round(float(value), 4) for value in (*values, names)))


def two_names(data: ValidationSet, found: Sequence[Detections]) -> float:
    """The part of the objects that boxes of more than one category cover."""
    objects = doubled = 0
    for image, detections in zip(data.images, found, strict=True):
        objects += len(image.boxes)
        covering = iou(image.boxes, detections.boxes) >= MATCH_IOU
        doubled += sum(len(set(detections.category_ids[row].tolist())) > 1 for row in covering)
    return doubled / max(1, objects)


def main() -> None:
    arguments, data = read_scenes(__doc__)
    print(
        f"{'chunks':>6}{'suppress':>10}{'precision':>11}{'recall':>8}{'F1':>7}{'best F1':>9}{'at':>6}{'two names':>11}"
    )
    rows = []
    for per_chunk in CATEGORIES_PER_CHUNK:
        chunks, found = detect(arguments.model, data, per_chunk)
        for suppress_iou in SUPPRESSIONS:
            row = judge(data, chunks, found, suppress_iou)
            rows.append(asdict(row))
            print(
                f"{chunks:6}{suppress_iou or 'off':>10}{row.precision:11.3f}{row.recall:8.3f}{row.f1:7.3f}"
                f"{row.best_f1:9.3f}{row.best_threshold:6.2f}{row.two_names:11.1%}",
                flush=True,
            )
    write_rows(arguments, rows)


if __name__ == "__main__":
    main()
