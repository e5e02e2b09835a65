"""Boxes of several detectors for the same images become one set: weighted boxes fusion, or suppression over all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from labeler.labels.boxes import area
from labeler.labels.detections import Detections

Method: TypeAlias = Literal["wbf", "nms"]
Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
_LEAST_WEIGHT = 1e-9  # of a box with score 0: a box that is alone keeps its place


@dataclass(frozen=True)
class BoxFusion:
    """Rules for fusing boxes; boxes of different categories are never fused.

    Attributes:
        method: "wbf": boxes that overlap become one, at their mean place weighed by score; its score is their mean
            score times the share of the runs that have a box in it. "nms": the best of them stays as it is.
        iou: boxes that overlap by more than this are of one object.
        max_detections: how many of an image are kept, best first; 0 for all.
    """

    method: Method
    iou: float
    max_detections: int = 0

    def apply(self, images: Sequence[Sequence[Detections]], asked: Sequence[npt.NDArray[np.int64]]) -> list[Detections]:
        """Fuse the detections of many images.

        Args:
            images: of each image, detections per run that labeled it. Category ids and scores are comparable already.
            asked: of each image, (len(its detections),) how many of these runs looked for the category, 1 or more.

        Returns:
            Detections of each image, sorted by falling score, with the column `agreement`. A fused box has the chunk of
            the best box in it, and with "wbf" no mask: its sides are of no box that has one.
        """
        rows = [Detections.concat(runs) for runs in images]
        everything = Detections.concat(rows)
        image = np.repeat(np.arange(len(rows)), list(map(len, rows)))
        run = np.array([number for runs in images for number, found in enumerate(runs) for _ in range(len(found))], int)
        # (n,) one number per image and category
        groups = np.unique(np.stack([image, everything.category_ids]), axis=1, return_inverse=True)[1].reshape(-1)
        order = _best_first(everything, groups, run)
        clusters = _cluster(everything[order], groups[order], self.iou, moving=self.method == "wbf")
        of_cluster = _Clusters(clusters, everything[order], run[order])
        agreement = of_cluster.runs()
        fused = replace(everything[order[of_cluster.first]], more={"agreement": agreement.astype(np.int16)})
        if self.method == "wbf":
            among = np.concatenate([np.zeros(0, np.int64), *asked])[order[of_cluster.first]]
            scores = of_cluster.mean_scores() * np.minimum(agreement, among) / among
            boxes = of_cluster.boxes().astype(np.float32)
            fused = replace(fused, boxes=boxes, scores=scores.astype(np.float32), masks=None)
        ends = np.searchsorted(image[order[of_cluster.first]], np.arange(len(rows) + 1))
        return [fused[start:stop].top(self.max_detections) for start, stop in pairwise(ends)]


def _best_first(found: Detections, groups: Ints, run: Ints) -> Ints:
    """Return (n,) places by group, in it by falling score; ties by box, then by run, so that no order
    of rows matters.
    """
    sides = found.boxes.T
    return np.lexsort((run, sides[3], sides[2], sides[1], sides[0], -found.scores.astype(np.float64), groups))


def _cluster(found: Detections, groups: Ints, iou_above: float, *, moving: bool) -> Ints:
    """Return (n,) the row that began each row's cluster.

    The k-th best boxes of all groups are matched at once. Each joins the cluster of its group whose box it overlaps
    most, if by more than `iou_above`, of equal ones the earlier; else it begins one.

    Args:
        found, groups: by group, best first.
        moving: a cluster's box is the weighted mean of its boxes so far; else the first of them.
    """
    boxes, weights = found.boxes.astype(np.float64), _weights(found)
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    sizes = np.diff(np.append(starts, len(groups)))
    starts, sizes = starts[by_size := np.argsort(-sizes, kind="stable")], sizes[by_size]
    cluster = np.arange(len(groups))
    # A cluster is kept in a slot of its group: (n,) slots, of which each group has as many as boxes.
    current, total = boxes.copy(), weights.copy()
    begun_by, filled = np.arange(len(groups)), np.minimum(sizes, 1)
    for rank in range(1, int(sizes.max(initial=0))):
        active = slice(0, int(np.searchsorted(-sizes, -rank, side="left")))
        rows = starts[active] + rank
        slots = np.minimum(starts[active, None] + np.arange(filled[active].max()), len(groups) - 1)
        overlaps = _iou_of_each(boxes[rows], current[slots])
        overlaps[np.arange(overlaps.shape[1]) >= filled[active, None]] = -1
        best = overlaps.argmax(1)
        joins = overlaps[np.arange(len(rows)), best] > iou_above
        slot, row = slots[joins, best[joins]], rows[joins]
        cluster[row] = begun_by[slot]
        if moving:
            weight = (total[slot] + weights[row])[:, None]
            current[slot] = (current[slot] * total[slot, None] + boxes[row] * weights[row, None]) / weight
            total[slot] = weight[:, 0]
        places = np.flatnonzero(~joins)  # of the groups among the active ones
        slot, row = starts[places] + filled[places], rows[~joins]
        current[slot], total[slot], begun_by[slot] = boxes[row], weights[row], row
        filled[places] += 1
    return cluster


def _iou_of_each(boxes_xyxy: Floats, others_xyxy: Floats) -> Floats:
    """Return (n, m) IoU of each of n boxes with its own m others; 0 where the union is empty.

    Args:
        boxes_xyxy: (n, 4).
        others_xyxy: (n, m, 4).
    """
    upper = np.maximum(boxes_xyxy[:, None, :2], others_xyxy[..., :2])
    lower = np.minimum(boxes_xyxy[:, None, 2:], others_xyxy[..., 2:])
    overlap = np.maximum(lower - upper, 0).prod(-1)
    union = area(boxes_xyxy)[:, None] + area(others_xyxy).reshape(overlap.shape) - overlap
    parts: Floats = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return parts


def _weights(found: Detections) -> Floats:
    return np.maximum(found.scores.astype(np.float64), _LEAST_WEIGHT)


class _Clusters:
    """Sums over the boxes of each cluster.

    Attributes:
        first: (clusters,) the best box of each, rising.
    """

    def __init__(self, cluster: Ints, found: Detections, run: Ints) -> None:
        self.first, self._of = np.unique(cluster, return_inverse=True)
        self._found, self._run = found, run

    def _sum(self, values: Floats) -> Floats:
        sums: Floats = np.bincount(self._of, values, len(self.first)).astype(np.float64)
        return sums

    def runs(self) -> Ints:
        """Return (clusters,) how many runs have a box in each."""
        pairs = np.unique(np.stack([self._of.reshape(-1), self._run]), axis=1)
        return np.bincount(pairs[0], minlength=len(self.first))

    def mean_scores(self) -> Floats:
        """Return (clusters,) plain means."""
        return self._sum(self._found.scores.astype(np.float64)) / self._sum(np.ones(len(self._run)))

    def boxes(self) -> Floats:
        """Return (clusters, 4) means of the sides, weighed by score."""
        weights = _weights(self._found)
        sides = [self._sum(weights * side) for side in self._found.boxes.T.astype(np.float64)]
        return np.stack(sides, 1) / self._sum(weights)[:, None]
