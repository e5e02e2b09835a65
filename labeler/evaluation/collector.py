"""Which rules a data set is judged by, and the detections those rules look at, collected from a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from labeler.errors import Refused
from labeler.evaluation.average_precision import COCO, LVIS, LVIS_FIXED, Rules, Score, score
from labeler.evaluation.detection_table import DetectionTable
from labeler.evaluation.federated import PER_CATEGORY, PER_IMAGE, BestPerCategory, best_per_image, judged
from labeler.truth.ground_truth import GroundTruth
from labeler.truth.matching import Kind

RulesChoice = Literal["auto", "coco", "lvis"]


def choose_rules(truth: GroundTruth, rules: RulesChoice) -> Rules:
    if rules == "lvis" and truth.federated is None:
        raise Refused(f"annotations {truth.source} have no `neg_category_ids`, so LVIS's rules cannot be applied")
    return LVIS if rules == "lvis" or (rules == "auto" and truth.federated is not None) else COCO


def why_not_fixed(detect: Mapping[str, Any]) -> str:
    """Why Fixed AP would be a wrong number on such a run; empty when it would not."""
    reasons = []
    if detect["assignment"] != "flattened":
        reasons.append(f"detect.assignment={detect['assignment']} keeps one category of each box")
    if detect["max_detections"] != 0:
        reasons.append(f"detect.max_detections={detect['max_detections']} caps each image")
    advice = "label again with detect.assignment=flattened detect.max_detections=0"
    return f"{' and '.join(reasons)}; {advice}" if reasons else ""


class Collector:
    """Takes a run's detections as they are read, and keeps what the rules look at."""

    def __init__(self, truth: GroundTruth, rules: Rules, *, fixed: bool, masks: bool) -> None:
        self._truth, self._rules, self._masks = truth, rules, masks
        self._parts: list[DetectionTable] = []
        self._pool = BestPerCategory(masks=masks) if fixed else None
        self._found = self._maskless = 0

    def add(self, found: DetectionTable) -> None:
        """All detections of the images in `found`: no image may be split over two calls."""
        self._found += len(found)
        self._maskless += len(found) - len(found.masked())
        if self._pool is not None:
            self._pool.add(found)
        self._parts.append(judged(self._truth, best_per_image(found)) if self._rules is LVIS else found)

    def notes(self) -> list[str]:
        """What a reader of the numbers has to know beside the rules' names."""
        best = f"the {COCO.per_image} best detections of a category in an image"
        if self._rules is not COCO:
            best = f"the {PER_IMAGE} best detections of an image, then those of categories judged in it"
        lines = [f"{self._rules.name}: IoU 0.50:0.95; {best}"]
        if self._masks and self._maskless:
            lines.append(f"masks: {self._maskless:,} of {self._found:,} detections have none and count for boxes only")
        if self._pool is not None:
            counts = np.bincount(self._pool.table().category, minlength=len(self._truth.categories))
            short = int(np.count_nonzero(counts < PER_CATEGORY))
            lines.append(
                f"Fixed AP: the {PER_CATEGORY:,} best detections of a category over all images; {short:,} of "
                f"{len(counts):,} categories have fewer"
            )
        return lines

    def scores(self, kinds: Sequence[Kind]) -> tuple[Score, ...]:
        tables = [(self._rules, DetectionTable.concat(self._parts, masks=self._masks))]
        self._parts = []
        if self._pool is not None:
            tables.append((LVIS_FIXED, judged(self._truth, self._pool.table())))
        return tuple(
            score(self._truth, table.masked() if kind == "segm" else table, rules, kind)
            for kind in kinds
            for rules, table in tables
        )
