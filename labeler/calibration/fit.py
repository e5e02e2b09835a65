"""A threshold for each category from what is known of it, and a stated fallback for the rare ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from labeler.calibration.evidence import Curve, Evidence
from labeler.calibration.intervals import one_sided, two_sided, wilson
from labeler.calibration.target import Target
from labeler.evaluation.average_precision import SCORE_THRESHOLDS

Status = Literal["fitted", "rare", "unreachable"]
NEVER = 1.0  # the threshold of a category that reaches the target nowhere: it is left out


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """One category's threshold (or, without id, the fallback's), and what was seen above it.

    Attributes:
        status: "fitted"; "rare", too little was judged, and `threshold` is the fallback; "unreachable", enough was
            judged and no threshold reaches the target, so `threshold` is 1 and the category is left out.
        judged: detections that were judged, from the score floor up.
        precision, recall: above the threshold; None where nothing is known.
    """

    category_id: int | None
    status: Status
    threshold: float
    judged: int
    precision: Interval | None
    recall: Interval | None


@dataclass(frozen=True)
class Calibration:
    """Thresholds for a target.

    Attributes:
        fallback: for rare categories, and those nothing is known of.
        fallback_of: whose detections it was fitted on.
    """

    target: Target
    choices: tuple[Choice, ...]
    fallback: Choice
    fallback_of: Literal["rare categories", "all categories"]


def fit(evidence: Evidence, target: Target, *, floor: float) -> Calibration:
    """A threshold for each category: the lowest that is surely precise enough (for recall, the highest).

    "Surely": the one-sided lower bound of Wilson's interval at `target.confidence` reaches the target. Taking the plain
    estimate instead would choose where luck was best, and miss the target on new images about every other time.

    The fallback is fitted in the same way on all rare categories' detections together; on everything's, if those are
    too few or never good enough.

    Args:
        floor: the run's score floor: nothing is known below it.
    """
    curves = {id_: evidence.curve([id_]) for id_ in evidence.category_ids}
    found = {id_: _threshold(curve, target, floor) for id_, curve in curves.items()}
    rare = [id_ for id_, curve in curves.items() if _seen(curve, target) < target.min_judged]
    fallback, of = _fallback(evidence, rare, target, floor)
    choices = []
    for id_, curve in curves.items():
        own = found[id_]
        if id_ in rare:
            choices.append(_choice(id_, "rare", fallback.threshold, curve))
        elif own is None:
            choices.append(_choice(id_, "unreachable", NEVER, curve))
        else:
            choices.append(_choice(id_, "fitted", own, curve))
    return Calibration(target, tuple(choices), fallback, of)


def _fallback(
    evidence: Evidence, rare: Sequence[int], target: Target, floor: float
) -> tuple[Choice, Literal["rare categories", "all categories"]]:
    together = evidence.curve(rare)
    threshold = _threshold(together, target, floor) if _seen(together, target) >= target.min_judged else None
    if threshold is not None:
        return _choice(None, "fitted", threshold, together), "rare categories"
    everything = evidence.curve(evidence.category_ids)
    threshold = _threshold(everything, target, floor)
    if threshold is None:
        return _choice(None, "unreachable", NEVER, everything), "all categories"
    return _choice(None, "fitted", threshold, everything), "all categories"


def _seen(curve: Curve, target: Target) -> int:
    return curve.judged if target.measure == "precision" else (curve.objects or 0)


def _threshold(curve: Curve, target: Target, floor: float) -> float | None:
    z = one_sided(target.confidence)
    known = floor - 1e-9 <= SCORE_THRESHOLDS
    if target.measure == "precision":
        low, _ = wilson(curve.precision, curve.support, z)
        good = np.flatnonzero(known & (np.nan_to_num(low) >= target.value))
        return float(SCORE_THRESHOLDS[good[0]]) if len(good) else None
    if curve.hits is None or not curve.objects:
        return None
    low, _ = wilson(curve.hits / curve.objects, np.full(len(curve.hits), curve.objects), z)
    good = np.flatnonzero(known & (low >= target.value))
    return float(SCORE_THRESHOLDS[good[-1]]) if len(good) else None


def _choice(id_: int | None, status: Status, threshold: float, curve: Curve) -> Choice:
    if threshold >= NEVER:
        return Choice(id_, status, NEVER, curve.judged, None, None)
    place = int(np.abs(SCORE_THRESHOLDS - threshold).argmin())
    recall = None
    if curve.hits is not None and curve.objects:
        recall = _interval(float(curve.hits[place]) / curve.objects, curve.objects)
    precision = _interval(float(curve.precision[place]), float(curve.support[place]))
    return Choice(id_, status, round(threshold, 2), curve.judged, precision, recall)


def _interval(value: float, count: float) -> Interval | None:
    if not count or np.isnan(value):
        return None
    low, high = wilson(value, count, two_sided())
    return Interval(value, float(low), float(high))
