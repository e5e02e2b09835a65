"""Which rules a data set is judged by, and the detections those rules look at, collected from a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from labeler.errors import Refused
from labeler.evaluation.average_precision import COCO, LVIS, LVIS_FIXED, Rules, Score, score
from labeler.evaluation.detection_table import DetectionTable
from labeler.truth.ground_truth import GroundTruth
from labeler.truth.matching import Kind, rank_in_group

RulesChoice = Literal["auto", "coco", "lvis"]


def choose_rules(truth: GroundTruth, rules: RulesChoice) -> Rules:
    if rules == "lvis" and truth.federated is None:
        raise Refused(f"annotations {truth.source} have no `neg_category_ids`, so LVIS's rules cannot be applied")
    return LVIS if rules == "lvis" or (rules == "auto" and truth.federated is not None) else COCO


def why_not_fixed(detect: Mapping[str, Any]) -> str:
    """Return why Fixed AP would be a wrong number on such a run; empty when it would not."""
    reasons = []
    if detect["assignment"] != "flattened":
        reasons.append(f"detect.assignment={detect['assignment']} keeps one category of each box")
    if detect["max_detections"] != 0:
        reasons.append(f"detect.max_detections={detect['max_detections']} caps each image")
    advice = "label again with detect.assignment=flattened detect.max_detections=0"
    return f"{' and '.join(reasons)}; {advice}" if reasons else ""


class Collector:
    """A collector of a run's detections that keeps what the rules need."""

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
        """Return what a reader of the numbers has to know beside the rules' names."""
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


PER_IMAGE = 300  # LVIS's limit
PER_CATEGORY = 10_000  # Fixed AP: Dave et al. 2021, "Evaluating Large-Vocabulary Object Detectors", section 4
_PRUNE_ROWS = 1_000_000


def best_per_image(found: DetectionTable, limit: int = PER_IMAGE) -> DetectionTable:
    """Return the `limit` best detections of each image, over all categories; of equal ones the first. Row order is
    kept.
    """
    return found[_best(found.image, found.scores, limit)]


def best_per_category(found: DetectionTable, limit: int = PER_CATEGORY) -> DetectionTable:
    """Return the `limit` best detections of each category over the data set, however many an image;
    row order is kept.
    """
    return found[_best(found.category, found.scores, limit)]


def _best(groups: npt.NDArray[np.int32], scores: npt.NDArray[np.floating], limit: int) -> npt.NDArray[np.int64]:
    order = np.lexsort((-scores, groups))
    return np.sort(order[rank_in_group(groups[order]) < limit])


def judged(truth: GroundTruth, found: DetectionTable) -> DetectionTable:
    """Return those whose category is marked or verified absent in their image."""
    if truth.federated is None:
        return found
    known = np.union1d(truth.keys(truth.image, truth.category), truth.federated.negative)
    return found[np.isin(truth.keys(found.image, found.category), known)]


class BestPerCategory:
    """A collector of a stream of detections that keeps the best of each category.

    Memory: at most twice `limit` rows a category, or a million; for LVIS's 1203 categories about 0.7 GB.
    """

    def __init__(self, limit: int = PER_CATEGORY, *, masks: bool = False) -> None:
        self._limit, self._masks = limit, masks
        self._parts: list[DetectionTable] = []
        self._fresh = self._kept = 0

    def add(self, part: DetectionTable) -> None:
        self._parts.append(part)
        self._fresh += len(part)
        if self._fresh > max(_PRUNE_ROWS, self._kept):
            self.table()

    def table(self) -> DetectionTable:
        """Return what is kept of all that was added so far, in the order it came."""
        best = best_per_category(DetectionTable.concat(self._parts, masks=self._masks), self._limit)
        self._parts, self._kept, self._fresh = [best], len(best), 0
        return best
