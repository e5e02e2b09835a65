"""Thresholds for any of a run's scores: the detector's, a second model's, or one that is fitted to both first."""

from __future__ import annotations

from dataclasses import replace

from labeler.calibration.calibrate import calibrate_by_annotations, calibrate_by_marks
from labeler.calibration.designs import drawn_evenly
from labeler.calibration.fit import Calibration
from labeler.calibration.fusion import boxes_of_marks, boxes_of_truth, describe_fusion, fit_fusion
from labeler.calibration.marks import Marks
from labeler.calibration.target import Target
from labeler.errors import Refused
from labeler.exports.sampled import Sample
from labeler.labels.chosen_score import DETECTORS, FUSED, ChosenScore
from labeler.runs import Snapshot
from labeler.runs.fitted_on import require_second_scores
from labeler.truth.ground_truth import Annotations


def calibrate_by_score(
    snapshot: Snapshot,
    target: Target,
    name: str,
    *,
    annotations: Annotations | None,
    marks: Marks | None,
    sample: Sample | None = None,
    by_name: bool,
    partial: bool,
) -> tuple[Calibration, ChosenScore, list[str]]:
    """Fit thresholds on one of a run's scores.

    Args:
        name: "score", "score2" or "fused".
        annotations, marks: the evidence, one of the two.
        sample: whose boxes are marked; without it the marks say which boxes were drawn by chance.
        by_name, partial: as of `calibrate_by_annotations`.

    Returns:
        The thresholds, the score that they are for, and what is to be said of how it was fitted.

    Raises:
        Refused: the run has no such score, or as `calibrate_by_annotations`.
    """
    require_second_scores(snapshot.run, name)
    if marks is not None and sample is None:
        marks = drawn_evenly(marks)
    if sample is not None and name != DETECTORS.name:
        raise Refused(f"a sample is drawn by the detector's score, so its marks do not fit --score {name}")
    score, lines = ChosenScore(name), list[str]()
    if name == FUSED:
        if marks is not None:
            boxes = boxes_of_marks(snapshot, marks)
        else:
            assert annotations is not None, "one of the two is given"
            boxes = boxes_of_truth(snapshot, annotations, by_name=by_name, partial=partial)
        score = ChosenScore(FUSED, fit_fusion(boxes))
        lines = [describe_fusion(score, len(boxes.right))]
    snapshot = replace(snapshot, score=score)
    if marks is not None:
        return calibrate_by_marks(snapshot, marks, target, sample), score, lines
    assert annotations is not None, "one of the two is given"
    return calibrate_by_annotations(snapshot, annotations, target, by_name=by_name, partial=partial), score, lines
