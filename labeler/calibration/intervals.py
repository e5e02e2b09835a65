"""Confidence intervals of a proportion, by Wilson's score method."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
SHOWN = 0.95  # two-sided, of the intervals that people see


def wilson(proportion: npt.ArrayLike, count: npt.ArrayLike, z: float) -> tuple[Floats, Floats]:
    """(low, high) of a proportion seen in `count` trials, z standard deviations to each side; NaN where count is 0.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927). `count` may be
    an effective number of trials, and so a fraction.
    """
    p, n = np.asarray(proportion, np.float64), np.asarray(count, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        reach = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    known = n > 0
    low: Floats = np.where(known, np.clip(middle - reach, 0, 1), np.nan)
    high: Floats = np.where(known, np.clip(middle + reach, 0, 1), np.nan)
    return low, high


def one_sided(confidence: float) -> float:
    """Standard deviations below which a value falls with 1 - confidence."""
    return NormalDist().inv_cdf(confidence)


def two_sided() -> float:
    return NormalDist().inv_cdf(0.5 + SHOWN / 2)
