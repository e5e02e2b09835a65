"""An independent, slow evaluation for the tests: plain loops over single boxes, written from the rules alone.

COCO: each detection, best first, takes the free object it overlaps most, if by the threshold at least; objects that do
not count (crowds, other sizes, LVIS's `ignore`) only when no counting one is left. AP reads the best precision at or
beyond each of 101 recalls. LVIS: see `lvis_average_precision`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

IOUS = [0.5 + 0.05 * step for step in range(10)]
RECALLS = np.linspace(0, 1, 101).tolist()  # not step / 100: the last bit decides where a recall is just reached
AREAS = {"": (0.0, 1e10), "s": (0.0, 1024.0), "m": (1024.0, 9216.0), "l": (9216.0, 1e10)}
Boxes = list[dict[str, Any]]


def overlap(found: dict[str, Any], wanted: dict[str, Any], crowd: bool) -> float:
    (x, y, w, h), (u, v, s, t) = found["bbox"], wanted["bbox"]
    both = max(0.0, min(x + w, u + s) - max(x, u)) * max(0.0, min(y + h, v + t) - max(y, v))
    whole = w * h if crowd else w * h + s * t - both
    return both / whole if whole > 0 else 0.0


def judge(found: Boxes, wanted: Boxes, iou: float, skips: Callable[[Any], bool], crowds: bool) -> list[bool | None]:
    """For each detection of one image and category, best first: right, wrong, or None: does not count."""
    taken: set[int] = set()
    verdicts: list[bool | None] = []
    for detection in found:
        choices = []
        for place, wanted_one in enumerate(wanted):
            is_crowd = crowds and bool(wanted_one.get("iscrowd"))
            if place in taken and not is_crowd:
                continue
            by = overlap(detection, wanted_one, is_crowd)
            if by >= iou - 1e-12:
                choices.append((not skips(wanted_one), by, place))
        if not choices:
            verdicts.append(False)
            continue
        counts, _, place = max(choices)
        taken.add(place)
        verdicts.append(True if counts else None)
    return verdicts


def curve_area(ranked: list[bool], objects: int) -> float:
    points = []
    hits = 0
    for rank, right in enumerate(ranked, 1):
        hits += right
        points.append((hits / objects, hits / rank))
    total = 0.0
    for threshold in RECALLS:
        total += max((precision for recall, precision in points if recall >= threshold), default=0.0)
    return total / 101


def average_precision(
    truth: dict[str, Any],
    results: Boxes,
    *,
    per_image: float = 100,
    crowds: bool = True,
    excuse: Callable[[int, int], bool] = lambda image, category: False,
) -> dict[str, dict[int, list[float]]]:
    """{"" or size: {category: [AP at each IoU]}}; categories without objects that count are absent."""
    answer: dict[str, dict[int, list[float]]] = {size: {} for size in AREAS}
    for size, (low, high) in AREAS.items():

        def skips(one: dict[str, Any], low: float = low, high: float = high) -> bool:
            flag = one.get("iscrowd") if crowds else one.get("ignore")
            return bool(flag) or not low <= one["area"] <= high

        for category in sorted(c["id"] for c in truth["categories"]):
            mine = [a for a in truth["annotations"] if a["category_id"] == category]
            objects = sum(not skips(a) for a in mine)
            if objects:
                answer[size][category] = [
                    curve_area(_ranked(truth, mine, results, category, iou, per_image, skips, crowds, excuse), objects)
                    for iou in IOUS
                ]
    return answer


def _ranked(
    truth: dict[str, Any],
    mine: Boxes,
    results: Boxes,
    category: int,
    iou: float,
    per_image: float,
    skips: Callable[[Any], bool],
    crowds: bool,
    excuse: Callable[[int, int], bool],
) -> list[bool]:
    verdicts: list[tuple[float, bool]] = []
    for image in sorted(i["id"] for i in truth["images"]):
        found = [r for r in results if (r["image_id"], r["category_id"]) == (image, category)]
        found = sorted(found, key=lambda r: -r["score"])[: int(min(per_image, 1e9))]
        wanted = [a for a in mine if a["image_id"] == image]
        for detection, verdict in zip(found, judge(found, wanted, iou, skips, crowds), strict=True):
            _, _, width, height = detection["bbox"]
            strange = skips({"area": width * height}) or excuse(image, category)
            if verdict is None or (verdict is False and strange):
                continue
            verdicts.append((detection["score"], verdict))
    return [right for _, right in sorted(verdicts, key=lambda pair: -pair[0])]


def lvis_average_precision(truth: dict[str, Any], results: Boxes, *, fixed: bool) -> dict[str, dict[int, list[float]]]:
    """Standard AP (300 an image) or Fixed AP (10,000 a category), then only judged pairs, some excused."""
    key, limit = ("category_id", 10_000) if fixed else ("image_id", 300)
    best: Boxes = []
    for value in sorted({r[key] for r in results}):
        best += sorted((r for r in results if r[key] == value), key=lambda r: -r["score"])[:limit]
    marked = {(a["image_id"], a["category_id"]) for a in truth["annotations"]}
    marked |= {(i["id"], c) for i in truth["images"] for c in i["neg_category_ids"]}
    loose = {(i["id"], c) for i in truth["images"] for c in i["not_exhaustive_category_ids"]}
    best = [r for r in best if (r["image_id"], r["category_id"]) in marked]
    return average_precision(
        truth, best, per_image=math.inf, crowds=False, excuse=lambda image, category: (image, category) in loose
    )


def mean(table: dict[int, list[float]], categories: set[int] | None = None, iou: float | None = None) -> float | None:
    """Over categories and IoU thresholds, or at one; None where nothing counts."""
    chosen = [v for category, values in table.items() if categories is None or category in categories for v in values]
    if iou is not None:
        place = min(range(10), key=lambda step: abs(IOUS[step] - iou))
        chosen = [values[place] for c, values in table.items() if categories is None or c in categories]
    return sum(chosen) / len(chosen) if chosen else None
