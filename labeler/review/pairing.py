"""Which boxes of two lists are the same: greedy pairs by overlap, best first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from labeler.labels.boxes import iou

Pairs = list[tuple[int, int, float]]  # (place in the first list, place in the second, IoU)


def pair_by_score(
    first_xyxy: npt.ArrayLike, second_xyxy: npt.ArrayLike, *, at_least: float, free: npt.NDArray[np.bool_] | None = None
) -> Pairs:
    """Each of the first list, in its order (best score first), takes the free one of the second it overlaps most.

    COCO's greedy matching at one IoU threshold, without crowds.

    Args:
        first_xyxy, second_xyxy: (n, 4) and (m, 4) corners.
        at_least: a smaller IoU is no pair.
        free: (n, m) bool, pairs that are allowed; all by default.
    """
    overlaps = iou(first_xyxy, second_xyxy)
    if free is not None:
        overlaps = np.where(free, overlaps, -1.0)
    pairs: Pairs = []
    for place in range(len(overlaps)):
        if overlaps.shape[1] and (best := float(overlaps[place].max())) >= at_least:
            other = int(overlaps[place].argmax())
            pairs.append((place, other, best))
            overlaps[:, other] = -1.0
    return pairs


def pair_by_overlap(
    first_xyxy: npt.ArrayLike, second_xyxy: npt.ArrayLike, *, at_least: float, free: npt.NDArray[np.bool_] | None = None
) -> Pairs:
    """The two that overlap most are a pair, then the next two, ...: neither list has the first choice."""
    overlaps = iou(first_xyxy, second_xyxy)
    if free is not None:
        overlaps = np.where(free, overlaps, -1.0)
    pairs: Pairs = []
    firsts, seconds = np.nonzero(overlaps >= at_least)
    order = np.argsort(-overlaps[firsts, seconds], kind="stable")
    taken_first, taken_second = set[int](), set[int]()
    for one, other in zip(firsts[order].tolist(), seconds[order].tolist(), strict=True):
        if one not in taken_first and other not in taken_second:
            taken_first.add(one)
            taken_second.add(other)
            pairs.append((one, other, float(overlaps[one, other])))
    return pairs
