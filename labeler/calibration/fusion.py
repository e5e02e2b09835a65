"""One score of two: a logistic fit of how often boxes are right to the detector's score and the second one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from labeler.calibration.marks import Marks, collect_marks
from labeler.errors import Refused
from labeler.evaluation import evaluate_run
from labeler.evaluation.average_precision import judge
from labeler.evaluation.detection_table import DetectionTable
from labeler.evaluation.evaluate import read_detections
from labeler.labels.chosen_score import DETECTORS, SCORE2, ChosenScore, ScoreFusion, logit
from labeler.labels.thresholds import Thresholds
from labeler.runs import Snapshot
from labeler.truth.ground_truth import Annotations

LEAST_BOXES = 30
_PENALTY = 1.0  # of the squared weights: without it, scores that part right from wrong wholly would have no optimum
_STEPS = 100
_CLOSE = 1e-10
_NONE = -1.0  # in the place of a second score
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class JudgedBoxes:
    """Boxes that are known to be right or wrong, with both scores: (n,) each."""

    score: Floats
    score2: Floats
    right: npt.NDArray[np.bool_]


def boxes_of_truth(
    snapshot: Snapshot, annotations: Annotations, *, by_name: bool = False, partial: bool = False
) -> JudgedBoxes:
    """The boxes that ground truth judges, as `evaluate` does at IoU 0.5: of two boxes of one object the one with the
    detector's higher score is right. Args and Raises: of `evaluate_run`.
    """
    stored = replace(snapshot, score=DETECTORS)
    evaluation = evaluate_run(stored, annotations, by_name=by_name, partial=partial, masks=False)
    aligned = evaluation.aligned
    assert aligned is not None

    def read(score: ChosenScore) -> DetectionTable:
        scored, everything = replace(snapshot, score=score), Thresholds(_NONE)
        parts = read_detections(scored, aligned.rows, aligned.category_of, everything)
        return DetectionTable.concat([found for found, _, _ in parts], masks=False)

    first, second = read(DETECTORS), read(ChosenScore(SCORE2, missing=_NONE))
    verdicts = np.full(len(first), -1)
    for one in judge(aligned.truth, first, evaluation.scores[0].rules):
        true, false = one.flags.positives(0, 0)  # of any size, at IoU 0.5
        verdicts[one.rows[true]], verdicts[one.rows[false]] = 1, 0
    known = (verdicts >= 0) & (second.scores >= 0)
    return JudgedBoxes(
        first.scores[known].astype(np.float64), second.scores[known].astype(np.float64), verdicts[known] > 0
    )


def boxes_of_marks(snapshot: Snapshot, marks: Marks) -> JudgedBoxes:
    """The boxes that somebody marked and that have a second score. Raises Refused as `collect_marks`."""

    def read(score: ChosenScore) -> Floats:
        found = collect_marks(replace(snapshot, score=score), marks).by_category
        return np.concatenate([found[id_] for id_ in sorted(found)])

    first, second = read(DETECTORS), read(ChosenScore(SCORE2, missing=_NONE))
    known = second[:, 0] >= 0
    return JudgedBoxes(first[known, 0], second[known, 0], first[known, 1] > 0)


def fit_fusion(boxes: JudgedBoxes) -> ScoreFusion:
    """The weights of the two scores' logits that make the judgments most likely, less half of their squares.

    By Newton's method; the optimum is the only one. The intercept is not penalized.

    Raises:
        Refused: if too few boxes were judged, or all are right, or all wrong.
    """
    count, right = len(boxes.right), int(boxes.right.sum())
    if count < LEAST_BOXES or right in (0, count):
        raise Refused(
            f"--score fused needs at least {LEAST_BOXES} judged boxes with a second score, right ones and wrong ones; "
            f"there are {right:,} right and {count - right:,} wrong"
        )
    features = np.stack([np.ones(count), logit(boxes.score), logit(boxes.score2)], 1)
    penalty = _PENALTY * np.diag([0.0, 1.0, 1.0])
    verdicts, weights = boxes.right.astype(np.float64), np.zeros(3)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-features @ weights))
        slope = features.T @ (verdicts - chance) - penalty @ weights
        curvature = (features * (chance * (1 - chance))[:, None]).T @ features + penalty
        step = np.linalg.solve(curvature, slope)
        size = 1.0
        before = likelihood(features, verdicts, weights)
        while size > _CLOSE and likelihood(features, verdicts, weights + size * step) < before:
            size /= 2  # a full step may go too far where chances are near 0 or 1
        weights = weights + size * step
        if abs(size * step).max() < _CLOSE:
            break
    return ScoreFusion(*(round(float(weight), 6) for weight in weights))


def likelihood(features: Floats, verdicts: Floats, weights: Floats) -> float:
    """Return what `fit_fusion` maximizes: the log-likelihood of judgments (n,) with features (n, 3),
    less the penalty.
    """
    log_odds = features @ weights
    fits = verdicts * log_odds - np.logaddexp(0, log_odds)
    return float(fits.sum() - 0.5 * _PENALTY * (weights[1:] ** 2).sum())


def describe_fusion(score: ChosenScore, count: int) -> str:
    """A line about a fit to a number of boxes."""
    fusion = score.fusion
    assert fusion is not None
    return (
        f"fused = sigmoid({fusion.intercept:.3f} + {fusion.score:.3f} logit(score) + {fusion.score2:.3f} "
        f"logit(score2)), fitted on {count:,} boxes"
    )
