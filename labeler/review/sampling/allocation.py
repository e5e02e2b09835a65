"""How many boxes to draw from each stratum: the split that makes the estimate's variance least (Neyman)."""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

from labeler.review.sampling.estimator import smoothed_shares

Ints = npt.NDArray[np.int64]
LEAST = 5  # boxes of each stratum, where there are that many: one says nothing about its stratum


def cut_into_strata(histogram: npt.ArrayLike, strata: int) -> Ints:
    """Return (cells,) the stratum of each cell of a histogram: as equal in boxes as whole cells allow, none empty.

    Args:
        histogram: (cells,) boxes, by rising score.
        strata: how many at most.
    """
    counts = np.asarray(histogram, np.int64)
    middle = np.cumsum(counts) - counts / 2
    wanted = np.minimum((middle * strata / max(counts.sum(), 1)).astype(np.int64), strata - 1)
    filled = np.unique(wanted[counts > 0])
    # An empty cell belongs to the stratum of the cells around it, and strata without a box have no number.
    place = np.searchsorted(filled, wanted, side="right") - 1
    cut: Ints = np.maximum(place, 0).astype(np.int64)
    return cut


def spread_of(hits: npt.ArrayLike, judged: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return (strata,) the standard deviation of right and wrong in each stratum, by a pilot's marks.

    Args:
        hits, judged: (strata,) right ones, and all that were judged; by rising score.
    """
    share = smoothed_shares(hits, judged)
    spread: npt.NDArray[np.float64] = np.sqrt(share * (1 - share))
    return spread


def allocate(boxes: int, sizes: npt.ArrayLike, spread: npt.ArrayLike, least: npt.ArrayLike = LEAST) -> Ints:
    """Return (strata,) how many boxes to draw from each, `boxes` in all, or every box where there are fewer.

    The exact optimum in whole numbers (Wright 2012): box after box goes where it lowers the variance most.

    Args:
        sizes: (strata,) boxes in each.
        spread: (strata,) standard deviation of right and wrong in each.
        least: (strata,) or one number: boxes that a stratum gets in any case, as far as it has and `boxes` allow.
    """
    size = np.asarray(sizes, np.int64)
    weight: npt.NDArray[np.float64] = size.astype(np.float64) * np.asarray(spread, np.float64)
    drawn = _floors(boxes, size, np.broadcast_to(np.asarray(least, np.int64), size.shape))
    left = min(boxes, int(size.sum())) - int(drawn.sum())
    queue = [_turn(weight, drawn, place) for place in np.flatnonzero(drawn < size).tolist()]
    heapq.heapify(queue)
    for _ in range(left):
        place = heapq.heappop(queue)[1]
        drawn[place] += 1
        if drawn[place] < size[place]:
            heapq.heappush(queue, _turn(weight, drawn, place))
    return drawn


def _turn(weight: npt.NDArray[np.float64], drawn: Ints, place: int) -> tuple[float, int]:
    """Return (minus what one more box is worth, place)."""
    count = float(drawn[place])
    return (-(weight[place] ** 2) / (count * (count + 1)) if count else -np.inf), place


def _floors(boxes: int, size: Ints, least: Ints) -> Ints:
    """Return (strata,) the boxes that each gets in any case; fewer if they are more than `boxes` together."""
    floor = np.minimum(size, least)
    while floor.sum() > boxes:
        floor = np.minimum(floor, floor.max() - 1)
    return floor
