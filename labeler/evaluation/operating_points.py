"""Precision, recall and F1 at score thresholds: what a person choosing a threshold looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.evaluation.average_precision import SCORE_THRESHOLDS, Score
from labeler.truth.ground_truth import GroundTruth

_TABLE = np.arange(4, 99, 5)  # places of 0.05, 0.10, ..., 0.95 in SCORE_THRESHOLDS
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OperatingPoints:
    """At IoU 0.5, for detections with at least each score; NaN where undefined.

    Attributes:
        thresholds: (t,) scores, in steps of 0.01, from the run's score floor on: below it nothing is known.
        precision, recall, f1: (t,).
        detections: (t,) true and false positives.
    """

    thresholds: Floats
    precision: Floats
    recall: Floats
    f1: Floats
    detections: npt.NDArray[np.int64]

    @staticmethod
    def of(true: npt.NDArray[np.int64], false: npt.NDArray[np.int64], objects: int, floor: float) -> OperatingPoints:
        """From counts at SCORE_THRESHOLDS; `objects` is how many there are to find."""
        known = floor - 1e-9 <= SCORE_THRESHOLDS
        hits, found = true[known].astype(np.float64), (true + false)[known].astype(np.float64)
        precision, recall = _divide(hits, found), _divide(hits, np.full(len(hits), float(objects)))
        f1 = _divide(2 * hits, found + objects)
        return OperatingPoints(SCORE_THRESHOLDS[known], precision, recall, f1, found.astype(np.int64))

    @property
    def best(self) -> int | None:
        """Return where F1 is highest, the lowest such threshold; None where nothing right was found
        at any threshold.
        """
        return int(np.nanargmax(self.f1)) if np.nan_to_num(self.f1).any() else None

    def at(self, place: int) -> dict[str, float | int | None]:
        return {
            "threshold": round(float(self.thresholds[place]), 2),
            "precision": _number(self.precision[place]),
            "recall": _number(self.recall[place]),
            "f1": _number(self.f1[place]),
            "detections": int(self.detections[place]),
        }

    def table(self) -> list[dict[str, float | int | None]]:
        """Return the points at 0.05, 0.10, ..., 0.95."""
        wanted = SCORE_THRESHOLDS[_TABLE]
        return [self.at(int(place)) for place in np.flatnonzero(np.isin(self.thresholds, wanted))]

    def best_point(self) -> dict[str, float | int | None] | None:
        return None if self.best is None else self.at(self.best)


def micro(score: Score, *, floor: float) -> OperatingPoints:
    """Return all categories' detections and objects counted together."""
    true, false = score.true_positives.sum(0), score.false_positives.sum(0)
    return OperatingPoints.of(true, false, int(score.objects.sum()), floor)


def per_category(score: Score, *, floor: float) -> list[OperatingPoints]:
    """Return one for each category, by position."""
    return [
        OperatingPoints.of(true, false, int(objects), floor)
        for true, false, objects in zip(score.true_positives, score.false_positives, score.objects, strict=True)
    ]


def to_dict(score: Score, truth: GroundTruth, *, floor: float) -> dict[str, Any]:
    """Return plain data for evaluation.json."""
    together = micro(score, floor=floor)
    return {
        "iou": 0.5,
        "kind": score.kind,
        "score_floor": floor,
        "micro": together.table(),
        "micro_best_f1": together.best_point(),
        "categories": [
            {"id": category.id, "name": category.name, "best_f1": points.best_point(), "at": points.table()}
            for category, points in zip(truth.categories, per_category(score, floor=floor), strict=True)
        ],
    }


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    quotient: Floats = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
