"""Average precision and recall of a data set by the rules of COCO and LVIS, and counts at score thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask

from labeler.evaluation.detection_table import DetectionTable
from labeler.truth.ground_truth import GroundTruth
from labeler.truth.matching import AREAS, IOU_THRESHOLDS, Kind, Matches, Side, match, outside_areas, rank_in_group

RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)  # as cocoeval has them
SCORE_THRESHOLDS = np.arange(1, 100) / 100
_EPSILON = np.spacing(1)
_AREA_KEYS = {"small": "s", "medium": "m", "large": "l"}
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rules:
    """Rules for which detections and objects count.

    Attributes:
        per_image: the best that many of an image's detections of one category count towards AP; None: all.
        recall_at: AR is reported at that many; each at most `per_image`.
        federated: LVIS: an unmatched detection of a category that is not exhaustively marked in its image is not an
            error, and `ignore` marks objects that do not count; else `iscrowd` does.
    """

    name: str
    per_image: int | None
    recall_at: tuple[int | None, ...]
    federated: bool


COCO = Rules("COCO", 100, (1, 10, 100), federated=False)
LVIS = Rules("LVIS", None, (None,), federated=True)  # the 300 best of an image: chosen before (`federated.py`)
LVIS_FIXED = Rules("LVIS Fixed AP", None, (None,), federated=True)  # the 10,000 best of a category: chosen before


@dataclass(frozen=True)
class Score:
    """Figures of each category; NaN if it has no objects that count. Axes: category, area, IoU threshold.

    Attributes:
        precision: (categories, areas, thresholds), the mean precision over the 101 recall thresholds.
        recall: (categories, areas, thresholds, len(rules.recall_at)).
        objects: (categories,) objects that count.
        detections: (categories,) detections that were looked at.
        true_positives, false_positives: (categories, len(SCORE_THRESHOLDS)) at IoU 0.5 with at least that score.
    """

    rules: Rules
    kind: Kind
    precision: Floats
    recall: Floats
    objects: npt.NDArray[np.int64]
    detections: npt.NDArray[np.int64]
    true_positives: npt.NDArray[np.int64]
    false_positives: npt.NDArray[np.int64]

    def summary(self, categories: Sequence[int] | None = None) -> dict[str, float | None]:
        """AP, AP50, AP75, APs, APm, APl and AR over the categories at these positions; None where nothing counts."""
        chosen = slice(None) if categories is None else np.asarray(categories, np.int64)
        precision, recall = self.precision[chosen], self.recall[chosen]
        found = {"AP": _mean(precision[:, 0])}
        found |= {f"AP{round(100 * iou)}": _mean(precision[:, 0, _at(iou)]) for iou in (0.5, 0.75)}
        found |= {f"AP{_AREA_KEYS[name]}": _mean(precision[:, area]) for area, name in enumerate(AREAS) if area}
        names = [f"AR{most}" if most else "AR" for most in self.rules.recall_at]
        found |= {name: _mean(recall[:, 0, :, most]) for most, name in enumerate(names)}
        return found | {
            f"AR{_AREA_KEYS[name]}": _mean(recall[:, area, :, -1]) for area, name in enumerate(AREAS) if area
        }


def _at(iou: float) -> int:
    return int(np.abs(IOU_THRESHOLDS - iou).argmin())


def _mean(values: Floats) -> float | None:
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if counted.size else None


def score(truth: GroundTruth, found: DetectionTable, rules: Rules, kind: Kind = "bbox") -> Score:
    """Match and count, category by category.

    The COCO rules give what pycocotools gives, to the last bit. Sorting takes about 20 bytes a detection beside the
    table; one category at a time is held twice. Measured on one core, 80 categories, 7 objects and 300 detections an
    image (100 of them near objects): 1,000 images 1.3 s, pycocotools' own loop 30 s; it grows with the images.

    Args:
        found: for LVIS, what `federated.py` selected.
        kind: "segm" needs masks on both sides; areas are then the masks', for detections too.
    """
    shape = (len(truth.categories), len(AREAS), len(IOU_THRESHOLDS))
    precision, recall = np.full(shape, np.nan), np.full((*shape, len(rules.recall_at)), np.nan)
    counts = np.zeros((len(truth.categories), 2, len(SCORE_THRESHOLDS)), np.int64)
    objects, detections = np.zeros((2, len(truth.categories)), np.int64)
    for category, one in enumerate(judge(truth, found, rules, kind)):
        objects[category], detections[category] = one.objects, len(one.found)
        counts[category] = one.flags.counts_at_scores(one.found.scores)
        for area in range(len(AREAS)):
            if positives := int(np.count_nonzero(~one.flags.object_ignored[area])):
                curves = one.flags.curves(area, positives, one.found.scores, rules)
                precision[category, area], recall[category, area] = curves
    return Score(rules, kind, precision, recall, objects, detections, counts[:, 0], counts[:, 1])


@dataclass(frozen=True)
class Judged:
    """One category's objects and detections, and what the detections count as.

    Attributes:
        found: sorted by image, and by falling score within it.
        rows: (n,) where each of them is among all detections.
    """

    wanted: Side
    found: DetectionTable
    flags: CountsAs
    rows: npt.NDArray[np.int64]

    @property
    def objects(self) -> int:
        """Return how many count."""
        return int(np.count_nonzero(~self.wanted.ignore))

    def ranked(self, rules: Rules) -> npt.NDArray[np.int64]:
        """Return the detections that count towards AP, best first; equal scores stay in image order."""
        return self.flags.ranked(self.found.scores, rules)


def judge(truth: GroundTruth, found: DetectionTable, rules: Rules, kind: Kind = "bbox") -> Iterator[Judged]:
    """Match each category's detections with its objects, in the order of the ground truth. Args: of `score`."""
    order_of_objects, object_bounds = _by_category(truth.category, truth.image, None, len(truth.categories))
    order, bounds = _by_category(found.category, found.image, found.scores, len(truth.categories))
    for category in range(len(truth.categories)):
        wanted = _objects(truth, order_of_objects[object_bounds[category] : object_bounds[category + 1]], rules, kind)
        rows = order[bounds[category] : bounds[category + 1]]
        part = found[rows]
        given = _detections(part, kind)
        flags = CountsAs.of(truth, category, wanted, given, match(wanted, given), rules)
        yield Judged(wanted, part, flags, rows)


def _by_category(
    category: npt.NDArray[np.int32], image: npt.NDArray[np.int32], scores: npt.NDArray[Any] | None, categories: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return (row order by category, image, falling score, place; where each category begins in it, one more at the
    end).
    """
    order = np.lexsort((image, category) if scores is None else (-scores, image, category))
    return order, np.searchsorted(category[order], np.arange(categories + 1))


def _objects(truth: GroundTruth, rows: npt.NDArray[np.int64], rules: Rules, kind: Kind) -> Side:
    crowd = np.zeros(len(rows), np.bool_) if rules.federated else truth.crowd[rows]
    ignore = truth.ignore[rows] if rules.federated else crowd
    regions = truth.boxes_xywh[rows] if kind == "bbox" or truth.masks is None else truth.masks[rows]
    return Side(truth.image[rows], regions, truth.areas[rows], np.zeros(len(rows)), crowd, ignore)


def _detections(part: DetectionTable, kind: Kind) -> Side:
    nobody = np.zeros(len(part), np.bool_)
    if kind == "segm" and part.masks is not None:
        areas = np.asarray(pycocotools.mask.area(list(part.masks)), np.float64).reshape(-1)
        return Side(part.image, part.masks, areas, part.scores, nobody, nobody)
    boxes = part.boxes_xywh.astype(np.float64)
    return Side(part.image, boxes, boxes[:, 2] * boxes[:, 3], part.scores, nobody, nobody)


@dataclass(frozen=True)
class CountsAs:
    """Inputs that decide whether one category's detections count as true, as false or not at all.

    Attributes:
        matches: see `Matches`.
        excused: (areas, n) bool: no error when unmatched (another size, or not exhaustively marked).
        rank: (n,) place among the image's detections of the category.
        object_ignored: (areas, objects) bool.
    """

    matches: Matches
    excused: npt.NDArray[np.bool_]
    rank: npt.NDArray[np.int64]
    object_ignored: npt.NDArray[np.bool_]

    @staticmethod
    def of(truth: GroundTruth, category: int, wanted: Side, given: Side, matches: Matches, rules: Rules) -> CountsAs:
        excused = outside_areas(given.areas)
        if rules.federated and truth.federated is not None:
            excused |= np.isin(truth.keys(given.image, category), truth.federated.not_exhaustive)
        return CountsAs(matches, excused, rank_in_group(given.image), outside_areas(wanted.areas) | wanted.ignore)

    def positives(self, area: int, threshold: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return (n,) bool each: true positives and false positives at an area and IoU threshold; the rest does not
        count.
        """
        matched, to_ignored = self.matches.matched[area, threshold], self.matches.to_ignored[area, threshold]
        true = np.zeros(len(self.rank), np.bool_)
        true[self.matches.rows[matched & ~to_ignored]] = True
        false = ~self.excused[area]
        false[self.matches.rows[matched]] = False
        return true, false

    def ranked(self, scores: npt.NDArray[Any], rules: Rules) -> npt.NDArray[np.int64]:
        """Return the detections that count towards AP, best first."""
        order = np.argsort(-scores, kind="stable")  # equal scores stay in image order
        return order if rules.per_image is None else order[self.rank[order] < rules.per_image]

    def curves(self, area: int, objects: int, scores: npt.NDArray[Any], rules: Rules) -> tuple[Floats, Floats]:
        """Mean precision (thresholds,) and recall (thresholds, recall_at) at one area."""
        precision = np.zeros(len(IOU_THRESHOLDS))
        recall = np.zeros((len(IOU_THRESHOLDS), len(rules.recall_at)))
        order = self.ranked(scores, rules)
        for threshold in range(len(IOU_THRESHOLDS)):
            true, false = self.positives(area, threshold)
            precision[threshold] = mean_precision(true[order], false[order], objects)
            for place, most in enumerate(rules.recall_at):
                hits = true if most is None else true & (self.rank < most)
                recall[threshold, place] = np.count_nonzero(hits) / objects
        return precision, recall

    def counts_at_scores(self, scores: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return (2, len(SCORE_THRESHOLDS)): true and false positives at IoU 0.5 with at least each score, uncapped."""
        return np.stack([at_least(scores[chosen]) for chosen in self.positives(0, 0)])


def at_least(scores: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return (len(SCORE_THRESHOLDS),) how many scores are at or above each, compared as exports do: float32 0.3 is
    above.
    """
    ordered = np.sort(scores)
    return len(ordered) - np.searchsorted(ordered, SCORE_THRESHOLDS.astype(scores.dtype), side="left")


def threshold_below(scores: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return (n,) position in SCORE_THRESHOLDS of the highest that each score reaches, compared as `at_least`; -1 for
    none.
    """
    places: npt.NDArray[np.int64] = np.searchsorted(SCORE_THRESHOLDS.astype(scores.dtype), scores, side="right") - 1
    return places


def mean_precision(true: npt.NDArray[np.bool_], false: npt.NDArray[np.bool_], objects: int) -> float:
    """AP of one ranked list: precision, made falling from the right, read at the 101 recall thresholds.

    Detections that are not marked true or false do not count. COCO's definition (cocoeval's `accumulate`).
    """
    counted = true | false
    hits, errors = np.cumsum(true[counted], dtype=np.float64), np.cumsum(false[counted], dtype=np.float64)
    precision = hits / (errors + hits + _EPSILON)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / objects, RECALL_THRESHOLDS, side="left")
    return float(np.append(envelope, 0.0)[at].sum() / len(RECALL_THRESHOLDS))  # 0 where the recall is never reached
