"""What is known of how right the detections above each threshold are; from ground truth, or from marked boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from labeler.evaluation.average_precision import SCORE_THRESHOLDS, Score, threshold_below

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One category, or several together, at each of SCORE_THRESHOLDS.

    Attributes:
        precision: (t,) of the detections with at least that score; NaN where nothing is known.
        support: (t,) the number of judged detections that estimate is worth (fewer than marked, if marks are uneven).
        judged: judged detections at the lowest threshold.
        hits: (t,) objects found, or None where nobody counted the objects.
        objects: how many there are to find, or None.
    """

    precision: Floats
    support: Floats
    judged: int
    hits: Floats | None = None
    objects: int | None = None


class Evidence(Protocol):
    """Categories that something is known of, and their curves."""

    @property
    def category_ids(self) -> Sequence[int]: ...

    def curve(self, category_ids: Sequence[int]) -> Curve:
        """Of these categories' detections together."""

    def by_score(self) -> tuple[Floats, Floats]:
        """(right, judged), each (t,): all categories' detections with a score from each threshold up to the next."""


class TruthEvidence:
    """Every detection of the annotated images was judged by matching it at IoU 0.5, as `evaluate` does."""

    def __init__(self, score: Score, position_of: dict[int, int]) -> None:
        self._score, self._position_of = score, position_of

    @property
    def category_ids(self) -> Sequence[int]:
        return sorted(self._position_of)

    def curve(self, category_ids: Sequence[int]) -> Curve:
        positions = [self._position_of[id_] for id_ in category_ids]
        true = self._score.true_positives[positions].sum(0).astype(np.float64)
        judged = true + self._score.false_positives[positions].sum(0)
        precision = np.divide(true, judged, out=np.full(len(true), np.nan), where=judged > 0)
        objects = int(self._score.objects[positions].sum())
        return Curve(precision, judged, int(judged.max(initial=0)), true, objects)

    def by_score(self) -> tuple[Floats, Floats]:
        positions = [self._position_of[id_] for id_ in self.category_ids]
        true = self._score.true_positives[positions].sum(0).astype(np.float64)
        judged = true + self._score.false_positives[positions].sum(0)
        return _between(true), _between(judged)


def _between(at_least: Floats) -> Floats:
    """(..., t) counts of scores from each threshold up to the next, of counts of scores from each threshold up."""
    between: Floats = at_least - np.append(at_least[..., 1:], np.zeros((*at_least.shape[:-1], 1)), axis=-1)
    return between


_TENTHS = np.floor(SCORE_THRESHOLDS * 10 + 1e-9).astype(int)  # (t,) 0..9


class MarkEvidence:
    """Some boxes were marked right or wrong, perhaps not evenly over categories and scores.

    Reports show as many boxes of a low score as of a high one, and of a rare category as of a frequent one, though a
    run has far more of some. So the share of right boxes is taken stratum by stratum, a category's tenth of the score,
    and weighed by how many boxes the run has there; within a stratum, marked boxes stand for the others. A tenth
    without marks is counted with the category's next lower one. Where that has none either, the other categories'
    boxes of the tenth stand for it, or all marks of its own, whichever say less.

    Marks of a sample were not drawn equally often within a tenth: each counts as many boxes as it stands for, and all
    of a stratum together as many marks as would say as much if they were drawn equally often (Kish).

    Args:
        marks: by category id: (n, 2) float64, score and 1.0 for right; or (n, 3), with the weight of each.
        boxes: by category id: (len(SCORE_THRESHOLDS),) stored boxes with at least each score.
        lowest: by category id: the score below which no box was drawn, so that nothing is known there.
    """

    def __init__(
        self,
        marks: Mapping[int, Floats],
        boxes: dict[int, npt.NDArray[np.int64]],
        lowest: Mapping[int, float] | None = None,
    ) -> None:
        self._marks = {id_: _with_weights(rows) for id_, rows in marks.items()}
        self._boxes, self._lowest = boxes, lowest or {}

    @property
    def category_ids(self) -> Sequence[int]:
        return sorted(self._marks)

    def curve(self, category_ids: Sequence[int]) -> Curve:
        nothing = np.zeros(len(SCORE_THRESHOLDS), np.int64)
        known = [id_ for id_ in category_ids if id_ in self._marks]
        marked = np.array([_sums(self._marks[id_]) for id_ in known]).reshape(-1, 3, len(SCORE_THRESHOLDS))
        stored = np.array([self._boxes.get(id_, nothing) for id_ in known]).reshape(-1, len(SCORE_THRESHOLDS))
        counts = np.concatenate([marked.transpose(1, 0, 2), stored[None]])
        estimates = [_estimate(counts, place) for place in range(len(SCORE_THRESHOLDS))]
        precision, support = np.array(estimates, np.float64).T
        lowest = max((self._lowest.get(id_, 0.0) for id_ in known), default=0.0)
        precision[lowest - 1e-9 > SCORE_THRESHOLDS] = np.nan
        support[np.isnan(precision)] = 0
        return Curve(precision, support, sum(len(self._marks[id_]) for id_ in known))

    def by_score(self) -> tuple[Floats, Floats]:
        """A mark counts as many boxes as the run has per mark of its category and tenth; together they count as marks.

        Without that, a rare category's marks, or those of high scores, would speak for boxes that are not theirs.
        """
        right, judged = np.zeros((2, len(SCORE_THRESHOLDS)))
        marks = 0
        for id_, rows in self._marks.items():
            stored = _between(self._boxes.get(id_, np.zeros(len(SCORE_THRESHOLDS), np.int64)).astype(np.float64))
            place = threshold_below(rows[:, 0].astype(np.float32))
            rows, place = rows[place >= 0], place[place >= 0]
            boxes = np.bincount(_TENTHS, stored, 10)[_TENTHS[place]]
            weight = rows[:, 2] * boxes / np.bincount(_TENTHS[place], rows[:, 2], 10)[_TENTHS[place]]
            np.add.at(right, place, weight * rows[:, 1])
            np.add.at(judged, place, weight)
            marks += len(rows)
        share = marks / judged.sum() if judged.any() else 1.0
        return right * share, judged * share


def _with_weights(marks: Floats) -> Floats:
    """(n, 3) marks with a weight; weights of 1 are added to (n, 2)."""
    return marks if marks.shape[1] > 2 else np.column_stack([marks, np.ones(len(marks))])


def _sums(marks: Floats) -> Floats:
    """(3, t) sums of weights, of right ones' weights, and of squared weights, of marks with at least each score."""
    place = threshold_below(marks[:, 0].astype(np.float32))
    weight, right = marks[place >= 0, 2], marks[place >= 0, 1] > 0
    size, at = len(SCORE_THRESHOLDS), place[place >= 0]
    between = [np.bincount(at, values, size) for values in (weight, weight * right, weight**2)]
    sums: Floats = np.cumsum(np.array(between, np.float64)[:, ::-1], 1)[:, ::-1]
    return sums


def _estimate(counts: Floats, place: int) -> tuple[float, float]:
    """(precision, effective number of marks) at one threshold; (NaN, 0) where too little was marked.

    Args:
        counts: (4, categories, t) weights of marks, of right ones, squared weights, and stored boxes, with at least
            each score.
    """
    # A tenth that the threshold parts is two; those below the threshold only represent others.
    starts = np.unique([*np.searchsorted(_TENTHS, range(10)), place])
    ends = np.concatenate([counts, np.zeros((*counts.shape[:2], 1))], 2)[..., [*starts[1:], -1]]
    total, hits, squares, stored = counts[..., starts] - ends  # (categories, strata) each
    has = squares > 1e-12 * np.maximum(counts[2, :, :1], 1)  # sums of floats leave crumbs where there are no marks
    marked = np.where(has, total**2 / np.where(has, squares, 1), 0)
    right = np.where(has, marked * hits / np.where(has, total, 1), 0)
    stored[:, starts < place] = 0
    kept = np.flatnonzero(stored.sum(0))
    # The lowest boxes must be marked: they are those that better ones say least about.
    if not len(kept) or not marked[:, kept[0]].any():
        return np.nan, 0.0
    weight = _weigh(marked, right, stored)
    weight, count, right = weight[weight > 0] / weight.sum(), marked[weight > 0], right[weight > 0]
    precision = float((weight * right / count).sum())
    # All right in a small stratum does not mean certainty: variances come from one more right and one more wrong.
    smooth = (right + 1) / (count + 2)
    variance = float((weight**2 * smooth * (1 - smooth) / count).sum())
    overall = float((weight * smooth).sum())
    return precision, min(overall * (1 - overall) / variance, float(count.sum()))


def _weigh(marked: Floats, right: Floats, stored: Floats) -> Floats:
    """(categories, strata) stored boxes that the marks of each stratum stand for: 0 where there are no marks."""
    weight = np.zeros_like(stored)
    own = _last_marked(marked)
    anyone = _last_marked(marked.sum(0, keepdims=True))[0]
    rows, strata = np.nonzero(stored * (own >= 0))
    np.add.at(weight, (rows, own[rows, strata]), stored[rows, strata])
    for category, stratum in zip(*np.nonzero(stored * (own < 0)), strict=True):
        boxes, total = stored[category, stratum], marked[category].sum()
        # Weighed by their boxes, but for strata that only are in: these are below the threshold and have no weight.
        there = anyone[stratum]
        others = np.where(marked[:, there] > 0, np.maximum(stored[:, there], 1), 0)
        share = others / others.sum()
        theirs = float((share * np.divide(right[:, there], marked[:, there], where=share > 0, out=share * 0)).sum())
        if total and right[category].sum() / total < theirs:
            weight[category] += boxes * marked[category] / total
        else:
            weight[:, there] += boxes * share
    return weight


def _last_marked(marked: Floats) -> npt.NDArray[np.int64]:
    """(categories, strata) the highest stratum with marks at or below each; -1 where there is none."""
    places = np.where(marked > 0, np.arange(marked.shape[1]), -1)
    found: npt.NDArray[np.int64] = np.maximum.accumulate(places, 1)
    return found
