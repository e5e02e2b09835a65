"""What ground truth adds to a report: precision-recall curves, objects to draw, and which images show errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from labeler.evaluation import Evaluation, GroundTruth, evaluate_run, operating_points
from labeler.labels.boxes import xyxy_to_xywh
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.records import BOXES
from labeler.labels.thresholds import Thresholds
from labeler.review.reservoir import Ints, Reservoir
from labeler.runs import Snapshot, UnitKey
from labeler.truth.alignment import Positions
from labeler.truth.ground_truth import Annotations
from labeler.truth.matching import match_greedily, overlap

IOU = 0.5
_EACH = 6  # images of a category's false positives, and of its misses
# What an object excuses that the rules do not count: COCO's crowd every detection that is in it for the most part,
# LVIS's ignored object the one that is matched to it.
COUNTED, CROWD, IGNORED = 0, 1, 2


@dataclass(frozen=True)
class Truth:
    """A run's annotations as its report shows them.

    Attributes:
        curves: plain data, see `_curves`.
        errors: (n,) groups (category position * 2, + 1 for misses) and (n, 3) unit number, row, box (-1 for a miss).
        units: the unit numbers above -> units.
    """

    curves: dict[str, Any]
    errors: tuple[Ints, Ints]
    units: tuple[UnitKey, ...]
    _objects: _Objects
    _rows: Mapping[UnitKey, Positions]

    def objects_in(self, unit: UnitKey, row: int) -> dict[str, Any]:
        """{truth: [category id, x_min, y_min, x_max, y_max, excuse], judged: category ids or null} of an image;
        empty for an image that is not annotated. Where `judged` is not null, nothing is known of other categories."""
        positions = self._rows.get(unit)
        image = -1 if positions is None else int(positions[row])
        return {} if image < 0 else self._objects.describe(image)


@dataclass(frozen=True)
class _Objects:
    """The annotated objects, by image; `excuse` says of each which of COUNTED, CROWD and IGNORED it is."""

    truth: GroundTruth
    category_id_of: Mapping[int, int]  # position in the ground truth -> id in the run
    excuse: Any  # (objects,) int8
    order: Any  # (objects,) rows by image
    bounds: Any  # (images + 1,) where each image begins in `order`

    @staticmethod
    def of(truth: GroundTruth, position_of: Mapping[int, int], *, federated: bool) -> _Objects:
        order = np.argsort(truth.image, kind="stable")
        bounds = np.searchsorted(truth.image[order], np.arange(len(truth.image_ids) + 1))
        excuse = np.where(truth.ignore, IGNORED, COUNTED) if federated else np.where(truth.crowd, CROWD, COUNTED)
        return _Objects(truth, {position: id_ for id_, position in position_of.items()}, excuse, order, bounds)

    def rows_of(self, image: int) -> Any:
        rows = self.order[self.bounds[image] : self.bounds[image + 1]]
        return rows[[int(category) in self.category_id_of for category in self.truth.category[rows]]]

    def boxes_xyxy(self, rows: Any) -> Any:
        x, y, width, height = self.truth.boxes_xywh[rows].T
        return np.stack([x, y, x + width, y + height], 1)

    def judged(self, image: int) -> frozenset[int] | None:
        """Category ids of which all is known in the image; None where that is every one."""
        truth, federated = self.truth, self.truth.federated
        if federated is None:
            return None
        present = set(truth.category[self.order[self.bounds[image] : self.bounds[image + 1]]].tolist())
        low, high = truth.keys([image, image + 1], [0, 0])

        def said(keys: Any) -> set[int]:
            inside = keys[np.searchsorted(keys, low) : np.searchsorted(keys, high)]
            return set((inside - low).tolist())

        known = (present | said(federated.negative)) - said(federated.not_exhaustive)
        return frozenset(self.category_id_of[place] for place in known if place in self.category_id_of)

    def describe(self, image: int) -> dict[str, Any]:
        rows = self.rows_of(image)
        described = [
            [self.category_id_of[int(self.truth.category[row])], *(round(float(side), 1) for side in box),
             int(self.excuse[row])]
            for row, box in zip(rows, self.boxes_xyxy(rows), strict=True)
        ]  # fmt: skip
        judged = self.judged(image)
        return {"truth": described, "judged": None if judged is None else sorted(judged)}


def judge_run(
    snapshot: Snapshot,
    annotations: Annotations,
    *,
    thresholds: Thresholds,
    by_name: bool = False,
    partial: bool = False,
    seed: int = 0,
) -> Truth:
    """Evaluate the run, and look for its worst errors at these thresholds. Holds what `evaluate_run` holds.

    Raises:
        Refused: as `evaluate_run` does.
    """
    evaluation = evaluate_run(snapshot, annotations, by_name=by_name, partial=partial, masks=False)
    assert evaluation.aligned is not None
    truth, rows = evaluation.aligned.whole, evaluation.aligned.images.rows
    position_of = evaluation.aligned.categories.position_of
    objects = _Objects.of(truth, position_of, federated=evaluation.scores[0].rules.federated)
    miner = _Miner(objects, thresholds, seed)
    units: list[UnitKey] = []
    for unit, table in snapshot.units((BOXES,)):
        if unit in rows:
            for row, detections in enumerate(DetectionsColumn(table).per_row(masks=False)):
                if (image := int(rows[unit][row])) >= 0:
                    miner.add(len(units), row, image, detections)
            units.append(unit)
    ids = {position: id_ for id_, position in position_of.items()}
    return Truth(_curves(evaluation, ids, truth), miner.errors.result(), tuple(units), objects, rows)


def _curves(evaluation: Evaluation, id_of: Mapping[int, int], whole: GroundTruth) -> dict[str, Any]:
    """{rules, iou, images, objects, AP, known: ids of the run's categories that are annotated, all: points,
    categories: {id: {objects, points}} of those with objects}; points are lists by rising threshold: [threshold,
    precision or null, recall or null]."""
    best = next(score for score in evaluation.scores if score.kind == "bbox")
    places = {(category.id, category.name): place for place, category in enumerate(whole.categories)}
    by_category = operating_points.per_category(best, floor=evaluation.floor)
    return {
        "rules": best.rules.name,
        "iou": IOU,
        "images": len(evaluation.truth.image_ids),
        "objects": int(best.objects.sum()),
        "AP": best.summary()["AP"],
        "known": sorted(id_of.values()),
        "all": _points(operating_points.micro(best, floor=evaluation.floor)),
        "categories": {
            str(id_of[places[category.id, category.name]]): {"objects": int(objects), "points": _points(points)}
            for category, points, objects in zip(evaluation.truth.categories, by_category, best.objects, strict=True)
            if objects
        },
    }


def _points(points: operating_points.OperatingPoints) -> list[list[float | None]]:
    def number(value: float) -> float | None:
        return None if np.isnan(value) else round(float(value), 4)

    return [
        [round(float(threshold), 2), number(precision), number(recall)]
        for threshold, precision, recall in zip(points.thresholds, points.precision, points.recall, strict=True)
    ]


class _Miner:
    """Looks for errors image by image; keeps a category's most confident false positives, and misses at random."""

    def __init__(self, objects: _Objects, thresholds: Thresholds, seed: int) -> None:
        self._objects, self._thresholds, self._rng = objects, thresholds, np.random.default_rng(seed)
        self._position_of = {id_: position for position, id_ in objects.category_id_of.items()}
        self.errors = Reservoir(2 * len(objects.truth.categories), _EACH, 3)

    def add(self, unit: int, row: int, image: int, detections: Any) -> None:
        found = self._thresholds.apply(detections)
        objects = self._objects.rows_of(image)
        truth = self._objects.truth
        known = np.array([self._position_of.get(int(id_), -1) for id_ in found.category_ids], np.int64)
        excuse = self._objects.excuse[objects]
        same = known[:, None] == truth.category[objects][None]  # (detections, objects)
        taken = _match(found.boxes, truth.boxes_xywh[objects], same, excuse)
        missed = np.setdiff1d(np.flatnonzero(excuse == COUNTED), taken)
        false = self._is_false(image, found, known, taken >= 0)
        self.errors.add(
            2 * known[false],
            -found.scores[false].astype(np.float64),
            np.stack([np.full(len(false), unit), np.full(len(false), row), false], 1),
        )
        groups = 2 * truth.category[objects[missed]].astype(np.int64) + 1
        self.errors.add(groups, self._rng.random(len(missed)), np.tile([unit, row, -1], (len(missed), 1)))

    def _is_false(self, image: int, found: Any, known: Any, matched: Any) -> Any:
        judged = self._objects.judged(image)
        wrong = [
            place
            for place in range(len(found))
            if not matched[place] and known[place] >= 0 and (judged is None or int(found.category_ids[place]) in judged)
        ]
        return np.array(wrong, np.int64)


def _match(found_xyxy: Any, objects_xywh: Any, same: Any, excuse: Any) -> Any:
    """(detections,) the object that each detection takes at IoU 0.5, as the evaluation has it; -1 for none."""
    if not same.any():
        return np.full(len(found_xyxy), -1)
    crowd = excuse == CROWD
    overlaps = np.where(same, overlap(xyxy_to_xywh(found_xyxy), objects_xywh, crowd.astype(np.uint8)), -1.0)
    return match_greedily(overlaps[None], (excuse != COUNTED)[None], crowd[None], [IOU])[0, 0]
