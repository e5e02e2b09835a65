"""Made-up ground truth and detections for the evaluation tests: crowded enough that every rule decides something."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
import pycocotools.mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIDE = 400


def make_truth(seed: int, *, images: int = 12, categories: int = 5, crowds: bool = True) -> dict[str, Any]:
    """COCO ground truth; the last category has no objects, IDs have gaps and are not in order."""
    rng = np.random.default_rng(seed)
    image_ids = rng.permutation(np.arange(3, 3 + 7 * images, 7)).tolist()
    category_ids = rng.permutation(np.arange(2, 2 + 3 * categories, 3)).tolist()
    annotations = []
    for image_id in image_ids:
        for _ in range(rng.integers(0, 7)):
            box = _box(rng)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice(category_ids[:-1])),
                    "bbox": box,
                    "area": box[2] * box[3] * float(rng.uniform(0.5, 1)),
                    "iscrowd": int(crowds and rng.random() < 0.15),
                    "segmentation": rectangle(box),
                }
            )
    return {
        "images": [{"id": i, "file_name": f"{i:06d}.jpg", "height": SIDE, "width": SIDE} for i in image_ids],
        "categories": [{"id": c, "name": f"thing {c}"} for c in category_ids],
        "annotations": annotations,
    }


def make_results(
    seed: int, truth: dict[str, Any], *, strays: int = 8, digits: int | None = None
) -> list[dict[str, Any]]:
    """Shaken and repeated objects, some under another category, and strays; `digits` rounds scores, for ties."""
    rng = np.random.default_rng(seed + 1000)
    category_ids = [c["id"] for c in truth["categories"]]
    results = []

    def add(image_id: int, category_id: int, box: list[float]) -> None:
        score = float(rng.random())
        results.append(
            {
                "image_id": image_id,
                "category_id": category_id,
                "bbox": box,
                "score": score if digits is None else round(score, digits),
            }
        )

    for annotation in truth["annotations"]:
        for _ in range(rng.integers(0, 4)):
            shake = rng.normal(0, 0.08, 4) * annotation["bbox"][2]
            box = [float(v) for v in np.array(annotation["bbox"]) + shake]
            category = annotation["category_id"] if rng.random() < 0.8 else int(rng.choice(category_ids))
            add(annotation["image_id"], category, [*box[:2], max(1.0, box[2]), max(1.0, box[3])])
    for image in truth["images"]:
        for _ in range(rng.integers(0, strays + 1)):
            add(image["id"], int(rng.choice(category_ids)), _box(rng))
    order = rng.permutation(len(results))
    return [results[place] for place in order]


def make_federated(seed: int, **sizes: Any) -> dict[str, Any]:
    """The same under LVIS's rules: absent and loosely marked categories by image, frequencies, ignored objects."""
    truth = make_truth(seed, crowds=False, **sizes)
    rng = np.random.default_rng(seed + 2000)
    category_ids = [c["id"] for c in truth["categories"]]
    for place, category in enumerate(truth["categories"]):
        category["frequency"] = "rcf"[place % 3]
    for annotation in truth["annotations"]:
        annotation["ignore"] = int(rng.random() < 0.1)
        del annotation["iscrowd"]
    for image in truth["images"]:
        present = {a["category_id"] for a in truth["annotations"] if a["image_id"] == image["id"]}
        absent = [c for c in category_ids if c not in present]
        image["neg_category_ids"] = [c for c in absent if rng.random() < 0.4]
        image["not_exhaustive_category_ids"] = [c for c in sorted(present) if rng.random() < 0.4]
    return truth


def rectangle(box_xywh: list[float]) -> dict[str, Any]:
    """A box as compressed RLE with `counts` as text, as JSON has it."""
    x, y, width, height = box_xywh
    corners = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    rle = pycocotools.mask.merge(pycocotools.mask.frPyObjects(corners, SIDE, SIDE))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def plain_pycocotools(truth: dict[str, Any], results: list[dict[str, Any]], kind: str) -> COCOeval:
    """pycocotools as everybody runs it, evaluated and accumulated."""
    with contextlib.redirect_stdout(io.StringIO()):
        wanted = COCO()
        wanted.dataset = copy.deepcopy(truth)
        wanted.createIndex()
        evaluator = COCOeval(wanted, wanted.loadRes(copy.deepcopy(results)), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def _box(rng: np.random.Generator) -> list[float]:
    width, height = (float(v) for v in np.exp(rng.uniform(np.log(10), np.log(220), 2)))
    return [float(rng.uniform(0, SIDE - width)), float(rng.uniform(0, SIDE - height)), width, height]
