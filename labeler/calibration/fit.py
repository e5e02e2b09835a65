"""A threshold for each category from what is known of it, and a stated fallback for the rare ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from labeler.calibration.evidence import Curve, Evidence
from labeler.calibration.scale import ScoreScale, fit_scale
from labeler.calibration.target import Target
from labeler.evaluation.average_precision import SCORE_THRESHOLDS
from labeler.evaluation.intervals import one_sided, two_sided, wilson
from labeler.labels.thresholds import NEVER

Status = Literal["fitted", "rare", "refuted", "unreachable"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FittedThreshold:
    """One category's threshold (or, without id, the fallback's), and what was seen above it.

    Attributes:
        status: "fitted"; "rare", too little was judged, and `threshold` is the fallback; "refuted", too little, but
            enough to say that at the fallback the category misses the target with that confidence; "unreachable",
            enough was judged and no threshold reaches the target. The last two are excluded: `threshold` is NEVER.
        judged: detections that were judged, from the score floor up.
        precision, recall: above the threshold; None where nothing is known.
        shortfall: of one that is excluded: how near it came; None where nothing is known.
    """

    category_id: int | None
    status: Status
    threshold: float
    judged: int
    precision: Interval | None
    recall: Interval | None
    shortfall: Shortfall | None = None


@dataclass(frozen=True)
class Calibration:
    """Thresholds for a target.

    Attributes:
        fallback: for rare categories, and those nothing is known of.
        fallback_of: whose detections it was fitted on.
        scale: how often a box with some score is right, all categories together.
        suppressed: whether the boxes are those that are left after suppression across categories.
    """

    target: Target
    choices: tuple[FittedThreshold, ...]
    fallback: FittedThreshold
    fallback_of: Literal["rare categories", "all categories"]
    scale: ScoreScale
    suppressed: bool = False

    @property
    def keeps_nothing(self) -> bool:
        """Return whether every category is excluded, also those that nothing is known of."""
        return all(choice.threshold >= NEVER for choice in (*self.choices, self.fallback))


def fit(evidence: Evidence, target: Target, *, floor: float) -> Calibration:
    """A threshold for each category: the lowest that is precise enough with the target's confidence (for recall, the
    highest).

    With confidence: the one-sided lower bound of Wilson's interval at `target.confidence` reaches the target. Taking
    the plain estimate instead would choose where luck was best, and miss the target on new images about every other
    time.

    The fallback is fitted in the same way on all rare categories' detections together; if those are never good enough,
    without the ones that by themselves certainly are not; on everything's, if that is too little or not good enough.

    Args:
        floor: the run's score floor: nothing is known below it.
    """
    curves = {id_: evidence.curve([id_]) for id_ in evidence.category_ids}
    found = {id_: _threshold(curve, target, floor) for id_, curve in curves.items()}
    rare = {id_: curve for id_, curve in curves.items() if _seen(curve, target) < target.min_judged}
    fallback, of = _fallback(evidence, rare, target, floor)
    short = {id_: find_shortfall(curve, target, floor=floor) for id_, curve in curves.items()}
    choices = []
    for id_, curve in curves.items():
        own = found[id_]
        if id_ in rare and fallback.threshold < NEVER and _is_refuted(curve, target, fallback.threshold):
            choices.append(_left_out(id_, "refuted", curve, short[id_]))
        elif id_ in rare:
            rarely = _left_out(id_, "rare", curve, short[id_])
            choices.append(rarely if fallback.threshold == NEVER else _choice(id_, "rare", fallback.threshold, curve))
        elif own is None:
            choices.append(_left_out(id_, "unreachable", curve, short[id_]))
        else:
            choices.append(_choice(id_, "fitted", own, curve))
    return Calibration(target, tuple(choices), fallback, of, fit_scale(*evidence.by_score()))


def _fallback(
    evidence: Evidence, rare: Mapping[int, Curve], target: Target, floor: float
) -> tuple[FittedThreshold, Literal["rare categories", "all categories"]]:
    likely = [id_ for id_, curve in rare.items() if not _is_refuted(curve, target, floor)]
    for some in (list(rare), likely):
        together = evidence.curve(some)
        threshold = _threshold(together, target, floor) if _seen(together, target) >= target.min_judged else None
        if threshold is not None:
            return _choice(None, "fitted", threshold, together), "rare categories"
    everything = evidence.curve(evidence.category_ids)
    threshold = _threshold(everything, target, floor)
    if threshold is None:
        short = find_shortfall(everything, target, floor=floor)
        return _left_out(None, "unreachable", everything, short), "all categories"
    return _choice(None, "fitted", threshold, everything), "all categories"


def _is_refuted(curve: Curve, target: Target, threshold: float) -> bool:
    """Return whether what was judged from a threshold up misses the target with its confidence: the upper bound is
    below it.

    Where nothing is known exactly there, the next threshold above speaks for it. Of recalls only what is kept counts:
    leaving a category out would not raise it.
    """
    _, high = wilson(curve.precision, curve.support, one_sided(target.confidence))
    known = np.flatnonzero(~np.isnan(high) & (threshold - 1e-9 <= SCORE_THRESHOLDS))
    return target.measure == "precision" and len(known) > 0 and bool(high[known[0]] < target.value)


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


def _left_out(id_: int | None, status: Status, curve: Curve, shortfall: Shortfall | None) -> FittedThreshold:
    return FittedThreshold(id_, status, NEVER, curve.judged, None, None, shortfall)


def _choice(id_: int | None, status: Status, threshold: float, curve: Curve) -> FittedThreshold:
    place = int(np.abs(SCORE_THRESHOLDS - threshold).argmin())
    recall = None
    if curve.hits is not None and curve.objects:
        recall = _interval(float(curve.hits[place]) / curve.objects, curve.objects)
    precision = _interval(float(curve.precision[place]), float(curve.support[place]))
    return FittedThreshold(id_, status, round(threshold, 2), curve.judged, precision, recall)


def _interval(value: float, count: float) -> Interval | None:
    if not count or np.isnan(value):
        return None
    low, high = wilson(value, count, two_sided())
    return Interval(value, float(low), float(high))


@dataclass(frozen=True)
class Shortfall:
    """The best that was reached, and the nearest way to the target.

    Attributes:
        threshold: where the lower bound of the target's measure is highest.
        value: the measure from there up.
        low: its one-sided lower bound at the target's confidence, which is what has to reach the target.
        more: how many more boxes (objects, for a recall) would reach the target if as many of them were right; None
            where nothing is above the target, so that no number would.
        more_from: the threshold from which these boxes are.
    """

    threshold: float
    value: float
    low: float
    more: int | None
    more_from: float


def find_shortfall(curve: Curve, target: Target, *, floor: float) -> Shortfall | None:
    """Return how near a curve comes to a target that it does not reach; None where nothing is known of it."""
    values, counts = curve.precision, curve.support
    if target.measure == "recall":
        found = np.zeros(len(SCORE_THRESHOLDS)) if curve.hits is None else curve.hits
        values, counts = found / max(curve.objects or 0, 1), np.full(len(found), float(curve.objects or 0))
    known = (floor - 1e-9 <= SCORE_THRESHOLDS) & (counts > 0) & ~np.isnan(values)
    if not known.any():
        return None
    z = one_sided(target.confidence)
    low = np.where(known, wilson(values, counts, z)[0], -1.0)
    best = int(low.argmax())
    with np.errstate(divide="ignore"):  # solved for the count at which the lower bound is the target
        needed = z * z * target.value * (1 - target.value) / (values - target.value) ** 2
    missing = np.where(known & (values > target.value), needed - counts, math.inf)
    nearest = int(missing.argmin())
    more = None if math.isinf(missing[nearest]) else max(1, math.ceil(missing[nearest]))
    places = (best, best if more is None else nearest)
    at, more_from = (round(float(SCORE_THRESHOLDS[place]), 2) for place in places)
    return Shortfall(at, float(values[best]), float(low[best]), more, more_from)
