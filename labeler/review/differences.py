"""What differs between two lists of boxes of one image: the same, moved, renamed, lost, added."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.labels.boxes import iou
from labeler.labels.detections import Detections

SAME_IOU = 0.9  # from here on a box is where it was
PAIR_IOU = 0.5  # from here on two boxes are about one object
KINDS = ("same", "moved", "renamed", "lost", "added")


@dataclass(frozen=True)
class Difference:
    """One object: its box on each side, or on one only.

    Attributes:
        kind: one of KINDS. Same and moved have one category; renamed has two for one place.
        first, second: places in the two lists; None where that side has no box.
        iou: of the two boxes; 0 where there is one.
    """

    kind: str
    first: int | None
    second: int | None
    iou: float = 0.0


def compare_boxes(first: Detections, second: Detections) -> list[Difference]:
    """Every box of both lists exactly once. Category ids must mean the same on both sides.

    Boxes of one category are paired first, the most overlapping ones before the others; what is left is paired
    whatever the category. Exchanging the two sides exchanges lost and added and nothing else.
    """
    same_category = first.category_ids[:, None] == second.category_ids[None]
    pairs = _pair(first.boxes, second.boxes, at_least=PAIR_IOU, free=same_category)
    found = [Difference("same" if iou >= SAME_IOU else "moved", one, other, iou) for one, other, iou in pairs]
    one_left = np.setdiff1d(np.arange(len(first)), [one for one, _, _ in pairs])
    other_left = np.setdiff1d(np.arange(len(second)), [other for _, other, _ in pairs])
    renamed = _pair(first.boxes[one_left], second.boxes[other_left], at_least=PAIR_IOU)
    found += [Difference("renamed", int(one_left[i]), int(other_left[j]), iou) for i, j, iou in renamed]
    lost = np.delete(one_left, [i for i, _, _ in renamed])
    added = np.delete(other_left, [j for _, j, _ in renamed])
    found += [Difference("lost", int(place), None) for place in lost]
    found += [Difference("added", None, int(place)) for place in added]
    return found


def _pair(
    first_xyxy: npt.ArrayLike, second_xyxy: npt.ArrayLike, *, at_least: float, free: npt.NDArray[np.bool_] | None = None
) -> list[tuple[int, int, float]]:
    """The two that overlap most are a pair, then the next two, ...: neither list has the first choice."""
    overlaps = iou(first_xyxy, second_xyxy)
    if free is not None:
        overlaps = np.where(free, overlaps, -1.0)
    pairs = []
    firsts, seconds = np.nonzero(overlaps >= at_least)
    order = np.argsort(-overlaps[firsts, seconds], kind="stable")
    taken_first, taken_second = set[int](), set[int]()
    for one, other in zip(firsts[order].tolist(), seconds[order].tolist(), strict=True):
        if one not in taken_first and other not in taken_second:
            taken_first.add(one)
            taken_second.add(other)
            pairs.append((one, other, float(overlaps[one, other])))
    return pairs
