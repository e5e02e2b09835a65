"""Measure a checkpoint while it is trained: the normal detector on a small fixed set of images with
known ground truth.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler import images, storage
from labeler.detectors.grounding_dino.detector import GroundingDino
from labeler.evaluation import COCO, DetectionTable, read_ground_truth, score
from labeler.evaluation.average_precision import SCORE_THRESHOLDS
from labeler.labels.boxes import xyxy_to_xywh
from labeler.labels.detections import Detections
from labeler.training.categories import listed
from labeler.training.shapes import ALL, HELD_OUT, SEEN, Background, Natural, draw_scene
from labeler.training.stored_images import Record
from labeler.truth.ground_truth import refuse
from labeler.vocabulary import Category, Vocabulary

log = logging.getLogger(__name__)

SCORE = 0.3  # where recall and precision are read off


@dataclass(frozen=True, eq=False)
class ValidationImage:
    """One image with its truth: pixels (h, w, 3) uint8, boxes (n, 4) xyxy absolute, category_ids (n,)."""

    pixels: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    category_ids: npt.NDArray[np.int64]


@dataclass(frozen=True)
class ValidationSet:
    """Images with ground truth, the vocabulary to look for, and groups of categories that are measured separately."""

    images: tuple[ValidationImage, ...]
    vocabulary: Vocabulary
    groups: Mapping[str, frozenset[int]]


def shapes_validation(
    seed: int, scenes: int, *, natural: float = 0.0, background: Background | None = None
) -> ValidationSet:
    """Return synthetic scenes of all combinations, measured separately for those that training sees and those held out.

    Args:
        natural: share of scenes before a natural background.
        background: or what is behind all of them, as `draw_scene` takes it.
    """
    behind = Natural(natural, seed) if natural else background
    drawn = [draw_scene(seed, index, background=behind) for index in range(scenes)]
    vocabulary = Vocabulary("shapes", tuple(Category(c.category_id, c.name, (c.name,)) for c in ALL))
    groups = {
        "seen": frozenset(c.category_id for c in SEEN),
        "held_out": frozenset(c.category_id for c in HELD_OUT),
    }
    found = tuple(ValidationImage(s.image, s.boxes_xyxy, s.category_ids.astype(np.int64)) for s in drawn)
    return ValidationSet(found, vocabulary, groups)


def stored_validation(records: Sequence[Record], vocabulary: Vocabulary, *, partial: bool = False) -> ValidationSet:
    """Stored images, all their categories measured together; boxes are scaled to copies of another size.

    Args:
        partial: omit images that cannot be read, and log how many.

    Raises:
        Refused: if an image cannot be read.
    """
    found, unread = [], []
    for record in records:
        try:
            pixels = record.read_pixels()
        except (images.ImageError, storage.Unreadable) as error:
            unread.append(f"{record.name}: {error}")
            continue
        height, width = pixels.shape[:2]
        scale = np.asarray([width / record.width, height / record.height] * 2, np.float32)
        found.append(ValidationImage(pixels, record.boxes_xyxy * scale, record.category_ids))
    if unread and not (partial and found):
        raise refuse("validation images", unread, advice="partial=true (--partial) leaves them out")
    if unread:
        log.warning("validation: excluded: %d of %d images: %s", len(unread), len(records), listed(unread))
    return ValidationSet(tuple(found), vocabulary, {"all": frozenset(c.id for c in vocabulary.categories)})


def validate(checkpoint: Path, data: ValidationSet, *, device: str) -> dict[str, float]:
    """`ap_<group>`, `recall_<group>` and `precision_<group>`, each 0 to 1, where there is anything to count.

    AP is COCO's AP@[.50:.95]; recall and precision are at score >= SCORE and IoU >= 0.5.
    """
    detector = GroundingDino(checkpoint, data.vocabulary, device=device)
    return measure(data, detector.detect([image.pixels for image in data.images]))


def measure(data: ValidationSet, found: Sequence[Detections]) -> dict[str, float]:
    """Return what `validate` returns, of detections in the order of the images."""
    truth = read_ground_truth(coco_of(data))
    result = score(truth, DetectionTable.of(truth, dict(enumerate(found, 1))), COCO)
    at = int(np.abs(SCORE_THRESHOLDS - SCORE).argmin())
    measured: dict[str, float] = {}
    for name, ids in data.groups.items():
        rows = [place for place, category in enumerate(truth.categories) if category.id in ids]
        right, wrong = (int(counts[rows, at].sum()) for counts in (result.true_positives, result.false_positives))
        objects, ap = int(result.objects[rows].sum()), result.summary(rows)["AP"]
        if ap is not None:
            measured |= {f"ap_{name}": round(ap, 4), f"recall_{name}": round(right / objects, 4)}
        if right + wrong:
            measured[f"precision_{name}"] = round(right / (right + wrong), 4)
    return measured


def coco_of(data: ValidationSet) -> dict[str, Any]:
    """Return the images and their ground truth as a COCO file has them; image ids count from 1."""
    annotations: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []
    for number, image in enumerate(data.images, 1):
        height, width = image.pixels.shape[:2]
        pictures.append({"id": number, "file_name": str(number), "height": height, "width": width})
        for box, category_id in zip(xyxy_to_xywh(image.boxes).tolist(), image.category_ids.tolist(), strict=True):
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": category_id}
            annotations.append({**place, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": category.id, "name": category.name} for category in data.vocabulary.categories]
    return {"images": pictures, "annotations": annotations, "categories": categories}
