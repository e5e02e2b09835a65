"""How near a category that is left out came to the target, and how much more has to be judged to reach it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from labeler.calibration.evidence import Curve
from labeler.calibration.intervals import one_sided, wilson
from labeler.calibration.target import Target
from labeler.evaluation.average_precision import SCORE_THRESHOLDS


@dataclass(frozen=True)
class Shortfall:
    """The best that was reached, and the nearest way to the target.

    Attributes:
        threshold: where the target's measure is surely highest.
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
