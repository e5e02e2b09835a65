"""How good words are: each phrase, and each set of phrases, judged as if it were a category of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from labeler.evaluation.average_precision import COCO, LVIS_FIXED, Judged, judge
from labeler.evaluation.collector import judged as judged_in_their_images
from labeler.evaluation.detection_table import DetectionTable
from labeler.evaluation.intervals import draw_images, drawn_precision, spread, two_sided, wilson
from labeler.labels.boxes import xyxy_to_xywh
from labeler.labels.detections import Detections
from labeler.labels.merge import nms
from labeler.truth.ground_truth import Federated, GroundTruth, Keys
from labeler.truth.matching import IOU_THRESHOLDS, overlap

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Phrases that are judged together.

    Attributes:
        category: position in the ground truth of the category that they stand for.
        phrases: their numbers.
    """

    category: int
    phrases: tuple[int, ...]


@dataclass(frozen=True)
class Best:
    """Positions of the best boxes, as many as there are objects, at IoU 0.5.

    Attributes:
        boxes: how many; fewer than objects if fewer were found.
        right: on an object of the category, each object once.
        again: on one that a better box has.
        others: (name of another category, boxes on its objects), most first.
        nothing: on no annotated object.
    """

    boxes: int
    right: int
    again: int
    others: tuple[tuple[str, int], ...]
    nothing: int


@dataclass(frozen=True)
class Figures:
    """Figures of a group; NaN if its category has no object.

    Attributes:
        objects: that count.
        boxes: that were judged: by the rules they are right or wrong.
        ap: IoU 0.50:0.95.
        ap_interval: 95%, by the bootstrap over images.
        drawn: (draws,) AP of each draw; those of two groups are of the same images.
        recall: of the objects, at IoU 0.5, by boxes of any score.
        recall_interval: 95%, Wilson's.
    """

    objects: int
    boxes: int
    ap: float
    ap_interval: tuple[float, float]
    drawn: Floats
    recall: float
    recall_interval: tuple[float, float]
    best: Best

    def surely_better(self, other: Figures) -> bool:
        """Return whether the AP is higher in at least 97.5% of the draws."""
        low, _ = spread(self.drawn - other.drawn)
        return low > 0


class PhraseJudge:
    """The evaluation of groups of phrases, from detections of all phrases, each of which was a category of its own.

    Args:
        truth: the images that were labeled, and all that is annotated in them.
        found: position of each image -> its detections, with the phrase's number as category id.
        phrases: how many there are.
        nms_iou: suppression within a group, as of `merge`.
    """

    def __init__(self, truth: GroundTruth, found: Mapping[int, Detections], *, phrases: int, nms_iou: float) -> None:
        self._truth, self._found, self._phrases, self._nms_iou = truth, found, phrases, nms_iou
        self.rules = COCO if truth.federated is None else LVIS_FIXED
        self._weights = draw_images(len(truth.file_names))
        self._objects = np.argsort(truth.image, kind="stable")
        self._bounds = np.searchsorted(truth.image[self._objects], np.arange(len(truth.file_names) + 1))

    def figures(self, groups: Sequence[Group]) -> list[Figures]:
        """Return what each group reached; no phrase may be in two of them."""
        truth = _truth_of(self._truth, [group.category for group in groups])
        found = self._table(groups)
        if truth.federated is not None:
            found = judged_in_their_images(truth, found)
        each = judge(truth, found, self.rules)
        return [self._figures(one, group.category) for one, group in zip(each, groups, strict=True)]

    def _table(self, groups: Sequence[Group]) -> DetectionTable:
        group_of = np.full(self._phrases, -1, np.int32)
        for number, group in enumerate(groups):
            group_of[list(group.phrases)] = number
        parts = []
        for image, found in self._found.items():
            numbers = group_of[found.category_ids]
            kept = nms(replace(found, category_ids=numbers)[numbers >= 0], nms_iou=self._nms_iou)
            place = np.full(len(kept), image, np.int32)
            parts.append(DetectionTable(place, kept.category_ids, kept.scores, xyxy_to_xywh(kept.boxes)))
        return DetectionTable.concat(parts)

    def _figures(self, one: Judged, category: int) -> Figures:
        drawn = drawn_precision(one, self.rules, np.concatenate([np.ones_like(self._weights[:1]), self._weights]))
        true, false = one.flags.positives(0, 0)
        ranked = one.ranked(self.rules)
        counted = ranked[(true | false)[ranked]]
        recall = np.count_nonzero(true[ranked]) / one.objects if one.objects else float("nan")
        low, high = wilson(recall, one.objects, two_sided())
        return Figures(
            one.objects,
            len(counted),
            float(drawn[0]),
            spread(drawn[1:]),
            drawn[1:],
            recall,
            (float(low), float(high)),
            self._best(one, category, counted[: one.objects], true),
        )

    def _best(self, one: Judged, category: int, rows: Ints, true: npt.NDArray[np.bool_]) -> Best:
        wrong = rows[~true[rows]]
        others = Counter[int]()
        again = 0
        for image in np.unique(one.found.image[wrong]).tolist():
            objects = self._objects[self._bounds[image] : self._bounds[image + 1]]
            if not len(objects):
                continue
            boxes = one.found.boxes_xywh[wrong[one.found.image[wrong] == image]]
            truth = self._truth
            overlaps = overlap(boxes, truth.boxes_xywh[objects], truth.crowd[objects].astype(np.uint8))
            own = truth.category[objects] == category
            on_others = np.where(own, 0.0, overlaps)
            hit = on_others.max(1) >= IOU_THRESHOLDS[0]
            others.update(truth.category[objects][on_others[hit].argmax(1)].tolist())
            again += int(np.count_nonzero(~hit & (np.where(own, overlaps, 0.0).max(1) >= IOU_THRESHOLDS[0])))
        named = tuple((self._truth.categories[other].name, count) for other, count in others.most_common())
        return Best(len(rows), len(rows) - len(wrong), again, named, len(wrong) - others.total() - again)


def _truth_of(truth: GroundTruth, positions: Sequence[int]) -> GroundTruth:
    """Return the ground truth with a category for each of these positions, of which one may be there several times."""
    order = np.argsort(truth.category, kind="stable")
    bounds = np.searchsorted(truth.category[order], np.arange(len(truth.categories) + 1))
    rows, category = _repeated(order, bounds, positions)
    part = replace(
        truth,
        categories=tuple(replace(truth.categories[position], id=group) for group, position in enumerate(positions)),
        image=truth.image[rows],
        category=category,
        boxes_xywh=truth.boxes_xywh[rows],
        areas=truth.areas[rows],
        crowd=truth.crowd[rows],
        ignore=truth.ignore[rows],
        masks=None,
    )
    if truth.federated is None:
        return part

    def moved(keys: Keys) -> Keys:
        image, category = np.divmod(keys, len(truth.categories))
        order = np.argsort(category, kind="stable")
        bounds = np.searchsorted(category[order], np.arange(len(truth.categories) + 1))
        rows, group = _repeated(order, bounds, positions)
        return np.sort(part.keys(image[rows], group))

    return replace(part, federated=Federated(moved(truth.federated.negative), moved(truth.federated.not_exhaustive)))


def _repeated(order: Ints, bounds: Ints, positions: Sequence[int]) -> tuple[Ints, npt.NDArray[np.int32]]:
    """Return (rows of each position one after the other, the place of that position among `positions`)."""
    parts = [order[bounds[position] : bounds[position + 1]] for position in positions]
    rows = np.concatenate([np.zeros(0, np.int64), *parts])
    return rows, np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
