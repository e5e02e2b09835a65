"""Which detections LVIS looks at: the best of an image or of a category, then only what the annotations can judge.

LVIS marks, for each image, some categories only. Detections of a category that is neither marked nor verified absent in
their image are left out: nobody knows whether they are right. The selection comes first, as in the reference: what is
left out afterwards has used up its place.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from labeler.evaluation.detection_table import DetectionTable
from labeler.truth.ground_truth import GroundTruth
from labeler.truth.matching import rank_in_group

PER_IMAGE = 300  # LVIS's limit
PER_CATEGORY = 10_000  # Fixed AP: Dave et al. 2021, "Evaluating Large-Vocabulary Object Detectors", section 4
_PRUNE_ROWS = 1_000_000


def best_per_image(found: DetectionTable, limit: int = PER_IMAGE) -> DetectionTable:
    """The `limit` best detections of each image, over all categories; of equal ones the first. Row order is kept."""
    return found[_best(found.image, found.scores, limit)]


def best_per_category(found: DetectionTable, limit: int = PER_CATEGORY) -> DetectionTable:
    """The `limit` best detections of each category over the data set, however many an image; row order is kept."""
    return found[_best(found.category, found.scores, limit)]


def _best(groups: npt.NDArray[np.int32], scores: npt.NDArray[np.floating], limit: int) -> npt.NDArray[np.int64]:
    order = np.lexsort((-scores, groups))
    return np.sort(order[rank_in_group(groups[order]) < limit])


def judged(truth: GroundTruth, found: DetectionTable) -> DetectionTable:
    """Those whose category is marked or verified absent in their image."""
    if truth.federated is None:
        return found
    known = np.union1d(truth.keys(truth.image, truth.category), truth.federated.negative)
    return found[np.isin(truth.keys(found.image, found.category), known)]


class BestPerCategory:
    """Collects a stream of detections and keeps the best of each category.

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
        """What is kept of all that was added so far, in the order it came."""
        best = best_per_category(DetectionTable.concat(self._parts, masks=self._masks), self._limit)
        self._parts, self._kept, self._fresh = [best], len(best), 0
        return best
