"""Measure a checkpoint while it is trained: the normal detector on a small fixed set of images with known truth."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler import images, storage
from labeler.boxes import xyxy_to_xywh
from labeler.detections import Detections
from labeler.detectors.grounding_dino import GroundingDino
from labeler.errors import Refused
from labeler.shapes import ALL, HELD_OUT, SEEN, draw_scene
from labeler.training.stored import Record
from labeler.vocabulary import Category, Vocabulary

SCORE, IOU = 0.3, 0.5  # where recall and precision are read off


@dataclass(frozen=True, eq=False)
class ValidationImage:
    """One image with its truth: pixels (h, w, 3) uint8, boxes (n, 4) xyxy absolute, category_ids (n,)."""

    pixels: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    category_ids: npt.NDArray[np.int64]


@dataclass(frozen=True)
class ValidationSet:
    """Images with truth, the vocabulary to look for, and groups of categories that are measured apart."""

    images: tuple[ValidationImage, ...]
    vocabulary: Vocabulary
    groups: Mapping[str, frozenset[int]]


def shapes_validation(seed: int, scenes: int) -> ValidationSet:
    """Drawn scenes of all combinations, measured apart for those that training sees and those held out."""
    drawn = [draw_scene(seed, index) for index in range(scenes)]
    vocabulary = Vocabulary("shapes", tuple(Category(c.category_id, c.name, (c.name,)) for c in ALL))
    groups = {
        "seen": frozenset(c.category_id for c in SEEN),
        "held_out": frozenset(c.category_id for c in HELD_OUT),
    }
    found = tuple(ValidationImage(s.image, s.boxes_xyxy, s.category_ids.astype(np.int64)) for s in drawn)
    return ValidationSet(found, vocabulary, groups)


def stored_validation(records: Sequence[Record], vocabulary: Vocabulary) -> ValidationSet:
    """Stored images, all their categories measured together. Raises Refused for an image that cannot be read."""
    found = []
    for record in records:
        try:
            pixels = images.decode(record.location.read()).pixels
        except (images.ImageError, storage.Unreadable) as error:
            raise Refused(f"validation image {record.name}: {error}") from None
        found.append(ValidationImage(pixels, record.boxes_xyxy, record.category_ids))
    return ValidationSet(tuple(found), vocabulary, {"all": frozenset(c.id for c in vocabulary.categories)})


def validate(checkpoint: Path, data: ValidationSet, *, device: str) -> dict[str, float]:
    """`ap_<group>`, `recall_<group>` and `precision_<group>`, each 0 to 1; -1 for AP without any object."""
    detector = GroundingDino(checkpoint, data.vocabulary, device=device)
    found = detector.detect([image.pixels for image in data.images])
    measured: dict[str, float] = {}
    for name, ids in data.groups.items():
        recall, precision = recall_and_precision(data.images, found, ids)
        measured[f"ap_{name}"] = round(average_precision(data.images, found, ids), 4)
        measured[f"recall_{name}"], measured[f"precision_{name}"] = round(recall, 4), round(precision, 4)
    return measured


def recall_and_precision(
    truth: Sequence[ValidationImage], found: Sequence[Detections], ids: frozenset[int]
) -> tuple[float, float]:
    """Of the objects of these categories, and of the detections of them with score >= SCORE, how many are a match.

    A detection matches an object of its category that overlaps it by IoU >= IOU and that no better one took. 0 where
    there is nothing to count.
    """
    objects = detections = matches = 0
    for image, result in zip(truth, found, strict=True):
        kept = result.above(SCORE).sorted()
        kept = kept[np.isin(kept.category_ids, list(ids))]
        wanted = np.isin(image.category_ids, list(ids))
        objects, detections = objects + int(wanted.sum()), detections + len(kept)
        free = wanted.copy()
        for box, category_id in zip(kept.boxes, kept.category_ids, strict=True):
            overlap = np.where(free & (image.category_ids == category_id), _iou(box, image.boxes), 0.0)
            if len(overlap) and overlap.max() >= IOU:
                free[int(overlap.argmax())] = False
                matches += 1
    return matches / max(1, objects), matches / max(1, detections)


def average_precision(truth: Sequence[ValidationImage], found: Sequence[Detections], ids: frozenset[int]) -> float:
    """COCO's AP@[.50:.95] over these categories, by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = _coco(truth, ids)
        coco.createIndex()
        results = _results(found)
        if not results:
            return 0.0
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.catIds = sorted(ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def _coco(truth: Sequence[ValidationImage], ids: frozenset[int]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(truth, 1):
        for box, category_id in zip(xyxy_to_xywh(image.boxes).tolist(), image.category_ids.tolist(), strict=True):
            annotation = {"image_id": number, "category_id": category_id, "bbox": box, "area": box[2] * box[3]}
            annotations.append({"id": len(annotations) + 1, "iscrowd": 0, **annotation})
    shapes = [(number, *image.pixels.shape[:2]) for number, image in enumerate(truth, 1)]
    return {
        "images": [{"id": number, "height": height, "width": width} for number, height, width in shapes],
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in sorted(ids | {a["category_id"] for a in annotations})],
    }


def _results(found: Sequence[Detections]) -> list[dict[str, Any]]:
    return [
        {"image_id": number, "category_id": int(category_id), "bbox": box, "score": float(score)}
        for number, result in enumerate(found, 1)
        for box, category_id, score in zip(
            xyxy_to_xywh(result.boxes).tolist(), result.category_ids, result.scores, strict=True
        )
    ]


def _iou(box: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.clip(high - low, 0, None).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return np.asarray(both / np.maximum(areas - both, 1e-9), np.float32)
