"""Precision from judged boxes that were drawn with known probabilities: plain arrays in, an interval out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.evaluation.intervals import two_sided, wilson

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ShareEstimate:
    """A share with its 95% interval.

    Attributes:
        value, low, high: in [0, 1].
        judged: boxes that it is made from.
        worth: number of boxes, drawn at random from an endless run, that would give an interval as wide; infinite if
            every box of the run was judged.
    """

    value: float
    low: float
    high: float
    judged: int
    worth: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def estimate_precision(stratum: npt.ArrayLike, inclusion: npt.ArrayLike, right: npt.ArrayLike) -> ShareEstimate:
    """Estimate the share of right boxes among all boxes of the strata (Horvitz-Thompson, stratified).

    The unit is the box: within a stratum every box was drawn with the same probability, whatever its image. So boxes of
    one image do not make the interval too narrow. Boxes that nobody judged count as missing at random in their stratum.

    The variance is that of stratified sampling without replacement. Strata in which all judged boxes are right (or all
    wrong) are not taken for certain: see `smoothed_shares`. The interval is Wilson's at the effective sample size.

    Args:
        stratum: (n,) int, of each box drawn; a higher number means higher scores.
        inclusion: (n,) the probability in (0, 1] with which each was drawn, equal within a stratum.
        right: (n,) 1 for right, 0 for wrong, NaN for not judged.

    Raises:
        ValueError: arrays of other shapes or values, or a stratum without a judged box.
    """
    drawn, chance, verdict = _checked(stratum, inclusion, right)
    numbers, place = np.unique(drawn, return_inverse=True)
    sizes = np.bincount(place, 1 / chance)  # boxes of the run
    known = np.isfinite(verdict)
    judged = np.bincount(place[known], minlength=len(numbers)).astype(np.float64)
    hits = np.bincount(place[known], verdict[known], minlength=len(numbers))
    if not judged.all():
        empty = ", ".join(str(number) for number in numbers[judged == 0])
        raise ValueError(f"no box of stratum {empty} was judged")
    weights = sizes / sizes.sum()
    value = float((weights * hits / judged).sum())
    smooth = smoothed_shares(hits, judged)
    unseen = np.maximum(1 - judged / sizes, 0)  # finite population: what was judged is known
    variance = float((weights**2 * smooth * (1 - smooth) / judged * unseen).sum())
    overall = float((weights * smooth).sum())
    worth = overall * (1 - overall) / variance if variance > 0 else np.inf
    return ShareEstimate(value, *_interval(value, worth), int(judged.sum()), worth)


def estimate_part(
    stratum: npt.ArrayLike, inclusion: npt.ArrayLike, right: npt.ArrayLike, part: npt.ArrayLike
) -> ShareEstimate | None:
    """Estimate the share of right boxes among those of a part of the run, such as a category; None if none is judged.

    A ratio of two Horvitz-Thompson totals. Its interval is Wilson's at Kish's effective sample size, which does not use
    the strata: it is a little too wide where wrong boxes are mostly in strata that were drawn more densely.

    Args:
        stratum, inclusion, right: as `estimate_precision` takes them, of all boxes drawn.
        part: (n,) bool, which of them belong to the part.
    """
    drawn, chance, verdict = _checked(stratum, inclusion, right)
    _, place = np.unique(drawn, return_inverse=True)
    known = np.isfinite(verdict)
    answered = np.bincount(place[known], minlength=place.max(initial=-1) + 1) / np.bincount(place)
    mine = known & np.asarray(part, np.bool_)
    if not mine.any():
        return None
    weights = 1 / (chance * answered[place])[mine]
    value = float((weights * verdict[mine]).sum() / weights.sum())
    worth = float(weights.sum() ** 2 / (weights**2).sum())
    return ShareEstimate(value, *_interval(value, worth), int(mine.sum()), worth)


def smoothed_shares(hits: npt.ArrayLike, judged: npt.ArrayLike) -> Floats:
    """Estimate the share of right boxes in each stratum, never 0 or 1: for variances only.

    Strata are pooled with their neighbors until shares rise with the score, and a half is added to the right and to the
    wrong ones of each pool. Pooling strata that differ only raises p(1 - p), so intervals get wider where the share
    does not rise with the score. A stratum without a judged box takes the share of the nearest pool below, or above.

    Args:
        hits, judged: (strata,) right ones, and all that were judged; by rising score.
    """
    right, count = np.asarray(hits, np.float64), np.asarray(judged, np.float64)
    seen = np.flatnonzero(count > 0)
    if not len(seen):
        return np.full(len(count), 0.5)
    pools: list[list[float]] = []  # right, judged, strata of each
    for stratum in seen:
        pools.append([right[stratum], count[stratum], 1])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] >= pools[-1][0] * pools[-2][1]:
            last = pools.pop()
            pools[-1] = [one + other for one, other in zip(pools[-1], last, strict=True)]
    shares = np.repeat([(r + 0.5) / (n + 1) for r, n, _ in pools], [int(strata) for *_, strata in pools])
    nearest = np.maximum(np.searchsorted(seen, np.arange(len(count)), side="right") - 1, 0)
    filled: Floats = shares[nearest]
    return filled


def _interval(value: float, worth: float) -> tuple[float, float]:
    if np.isinf(worth):
        return value, value
    low, high = wilson(value, worth, two_sided())
    return min(float(low), value), max(float(high), value)  # all right: 1 must be in it, and rounding puts it outside


def _checked(
    stratum: npt.ArrayLike, inclusion: npt.ArrayLike, right: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    drawn, chance = np.asarray(stratum, np.int64), np.asarray(inclusion, np.float64)
    verdict = np.asarray(right, np.float64)
    if not drawn.shape == chance.shape == verdict.shape == (len(drawn),) or not len(drawn):
        raise ValueError(f"expected three arrays (n,), got {drawn.shape}, {chance.shape} and {verdict.shape}")
    if not ((chance > 0) & (chance <= 1)).all():
        raise ValueError("inclusion probabilities must be above 0 and at most 1")
    if not np.isin(verdict[np.isfinite(verdict)], (0, 1)).all() or np.isinf(verdict).any():
        raise ValueError("judgments must be 1, 0 or NaN")
    return drawn, chance, verdict
