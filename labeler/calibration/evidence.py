"""What is known of how right the detections above each threshold are; from ground truth, or from marked boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from labeler.evaluation.average_precision import SCORE_THRESHOLDS, Score
from labeler.evaluation.ground_truth import GroundTruth

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One category, or several together, at each of SCORE_THRESHOLDS.

    Attributes:
        precision: (t,) of the detections with at least that score; NaN where nothing is known.
        support: (t,) the number of judged detections that estimate is worth (fewer than marked, if marks are uneven).
        judged: judged detections at the lowest threshold.
        hits: (t,) objects found, or None where nobody counted the objects.
        objects: how many there are to find, or None.
    """

    precision: Floats
    support: Floats
    judged: int
    hits: Floats | None = None
    objects: int | None = None


class Evidence(Protocol):
    """Categories that something is known of, and their curves."""

    @property
    def category_ids(self) -> Sequence[int]: ...

    @property
    def has_recall(self) -> bool: ...

    def curve(self, category_ids: Sequence[int]) -> Curve:
        """Of these categories' detections together."""


class TruthEvidence:
    """Every detection of the annotated images was judged by matching it at IoU 0.5, as `evaluate` does."""

    has_recall = True

    def __init__(self, truth: GroundTruth, score: Score, position_of: dict[int, int]) -> None:
        self._truth, self._score, self._position_of = truth, score, position_of

    @property
    def category_ids(self) -> Sequence[int]:
        return sorted(self._position_of)

    def curve(self, category_ids: Sequence[int]) -> Curve:
        positions = [self._position_of[id_] for id_ in category_ids]
        true = self._score.true_positives[positions].sum(0).astype(np.float64)
        judged = true + self._score.false_positives[positions].sum(0)
        precision = np.divide(true, judged, out=np.full(len(true), np.nan), where=judged > 0)
        objects = int(self._score.objects[positions].sum())
        return Curve(precision, judged, int(judged.max(initial=0)), true, objects)


_BANDS = np.floor(SCORE_THRESHOLDS * 10 + 1e-9).astype(int)  # (t,) 0..9: tenths


class MarkEvidence:
    """Some boxes were marked right or wrong, perhaps not evenly over the scores.

    Reports show as many boxes of a low score as of a high one, though a run has far more low ones. So the share of
    right boxes is taken tenth by tenth of the score, and weighed by how many boxes the run has there; within a tenth,
    marked boxes stand for the others. A tenth without marks is counted with the next lower one.

    Args:
        marks: by category id: (n, 2) float64, score and 1.0 for right.
        boxes: by category id: (len(SCORE_THRESHOLDS),) stored boxes with at least each score.
    """

    has_recall = False

    def __init__(self, marks: dict[int, Floats], boxes: dict[int, npt.NDArray[np.int64]]) -> None:
        self._marks, self._boxes = marks, boxes

    @property
    def category_ids(self) -> Sequence[int]:
        return sorted(self._marks)

    def curve(self, category_ids: Sequence[int]) -> Curve:
        marks = np.concatenate([self._marks[id_] for id_ in category_ids] or [np.zeros((0, 2))])
        nothing = np.zeros(len(SCORE_THRESHOLDS), np.int64)
        boxes = sum((self._boxes.get(id_, nothing) for id_ in category_ids), nothing)
        estimates = [self._estimate(marks, boxes, place) for place in range(len(SCORE_THRESHOLDS))]
        precision, support = np.array(estimates, np.float64).T
        return Curve(precision, support, len(marks))

    def _estimate(self, marks: Floats, boxes: npt.NDArray[np.int64], place: int) -> tuple[float, float]:
        """(precision, effective number of marks) at one threshold; (NaN, 0) where too little was marked."""
        strata = _strata(marks, boxes, place)
        if not strata:
            return np.nan, 0.0
        count, right, weight = np.array(strata, np.float64).T
        weight = weight / weight.sum()
        precision = float((weight * right / count).sum())
        # All right in a small tenth does not mean certainty: variances come from one more right and one more wrong.
        smooth = (right + 1) / (count + 2)
        variance = float((weight**2 * smooth * (1 - smooth) / count).sum())
        overall = float((weight * smooth).sum())
        return precision, min(overall * (1 - overall) / variance, float(count.sum()))


def _strata(marks: Floats, boxes: npt.NDArray[np.int64], place: int) -> list[tuple[float, float, float]]:
    """(marks, right ones, stored boxes) tenth by tenth of the score from a threshold upward; [] where none is marked.

    The lowest stratum begins at the threshold itself. It must have marks of its own: boxes just above a threshold are
    those that better ones say least about.
    """
    strata: list[tuple[float, float, float]] = []
    scores = marks[:, 0]
    start = place
    while start < len(SCORE_THRESHOLDS):
        later = np.flatnonzero(_BANDS[start] < _BANDS)
        stop = int(later[0]) if len(later) else len(SCORE_THRESHOLDS)
        upper = SCORE_THRESHOLDS[stop] if stop < len(SCORE_THRESHOLDS) else np.inf
        inside = (scores >= SCORE_THRESHOLDS[start]) & (scores < upper)
        stored = float(boxes[start] - (boxes[stop] if stop < len(SCORE_THRESHOLDS) else 0))
        count, right = float(inside.sum()), float(marks[inside, 1].sum())
        if count and stored:
            strata.append((count, right, stored))
        elif stored and strata:
            strata[-1] = (strata[-1][0], strata[-1][1], strata[-1][2] + stored)
        elif stored:
            return []
        start = stop
    return strata
