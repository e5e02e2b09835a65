"""How far a measured figure may be off: Wilson's interval of a proportion, the bootstrap over images of an AP."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from labeler.evaluation.average_precision import RECALL_THRESHOLDS, Judged, Rules

Floats = npt.NDArray[np.float64]
SHOWN = 0.95  # two-sided, of the intervals that people see
DRAWS = 200  # of the bootstrap: its 2.5% and 97.5% quantiles are then between the 5th and 6th draw from either end
_EPSILON = np.spacing(1)


def wilson(proportion: npt.ArrayLike, count: npt.ArrayLike, z: float) -> tuple[Floats, Floats]:
    """Return (low, high) of a proportion seen in `count` trials, z standard deviations to each side; NaN where count is
    0.

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


def draw_images(images: int, *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Return (draws, images) how often each image is in each draw, with replacement; every draw has `images` of them.

    Figures of the same draws can be compared draw by draw.
    """
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), draws).astype(np.float64)


def drawn_precision(judged: Judged, rules: Rules, weights: Floats) -> Floats:
    """Return (draws,) AP at IoU 0.50:0.95 of one category on each draw; NaN where a draw has no object that counts.

    With all weights 1 it is that of `score`, and with whole numbers that of a data set with images repeated that often.

    Args:
        weights: (draws, images), from `draw_images`.
    """
    counted = ~judged.wanted.ignore
    objects = weights @ np.bincount(judged.wanted.image[counted], minlength=weights.shape[1])
    order = judged.ranked(rules)
    image = judged.found.image[order]
    sums = np.zeros(len(weights))
    thresholds = judged.flags.matches.matched.shape[1]
    for threshold in range(thresholds):
        true, false = judged.flags.positives(0, threshold)
        sums += _mean_precisions(true[order], false[order], weights, image, objects)
    return np.where(objects > 0, sums / thresholds, np.nan)


def _mean_precisions(
    true: npt.NDArray[np.bool_],
    false: npt.NDArray[np.bool_],
    weights: Floats,
    image: npt.NDArray[np.int32],
    objects: Floats,
) -> Floats:
    """Return (draws,) of one ranked list, as `mean_precision`; read at its hits alone, between which precision only
    falls.
    """
    places = np.flatnonzero(true)
    if not len(places):
        return np.zeros(len(weights))
    errors = np.flatnonzero(false)
    hits = np.cumsum(weights[:, image[places]], 1)
    before = np.pad(np.cumsum(weights[:, image[errors]], 1), ((0, 0), (1, 0)))
    wrong = before[:, np.searchsorted(errors, places)]
    envelope = np.maximum.accumulate((hits / (wrong + hits + _EPSILON))[:, ::-1], 1)[:, ::-1]
    recall = hits / np.maximum(objects, 1)[:, None]
    ended = np.pad(envelope, ((0, 0), (0, 1)))  # 0 where a recall is never reached
    at = [np.searchsorted(row, RECALL_THRESHOLDS, side="left") for row in recall]
    sums: Floats = np.take_along_axis(ended, np.array(at), 1).sum(1)
    return sums / len(RECALL_THRESHOLDS)


def spread(values: Floats) -> tuple[float, float]:
    """Return (low, high) that the middle 95% of the draws are in; (NaN, NaN) where less than half of
    them have a value.
    """
    known = values[~np.isnan(values)]
    if 2 * len(known) < len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.5 - SHOWN / 2, 0.5 + SHOWN / 2])
    return float(low), float(high)
