"""Fit thresholds for a run: by ground truth, or by marked boxes."""

from __future__ import annotations

from dataclasses import replace

from labeler import storage
from labeler.calibration.designs import drawn_by_sample, population_of
from labeler.calibration.evidence import MarkEvidence, TruthEvidence
from labeler.calibration.fit import Calibration, fit
from labeler.calibration.marks import Marks, collect_marks
from labeler.calibration.target import Target
from labeler.errors import Refused
from labeler.evaluation import Evaluation, evaluate_run
from labeler.exports.sampled import Sample
from labeler.runs import Snapshot
from labeler.truth.ground_truth import Annotations


def calibrate_by_annotations(
    snapshot: Snapshot, annotations: Annotations, target: Target, *, by_name: bool = False, partial: bool = False
) -> Calibration:
    """Thresholds from ground truth for some of the run's images; matching is `evaluate`'s, at IoU 0.5.

    Nothing is suppressed across categories before matching, since which box suppresses which depends on the thresholds.

    Args:
        annotations, by_name, partial: see `evaluate_run`.

    Raises:
        Refused: other images or categories, or nothing to calibrate by.
    """
    _require_scores(snapshot)
    evaluation = evaluate_run(snapshot, annotations, by_name=by_name, partial=partial, masks=False)
    _require_evidence(evaluation)
    assert evaluation.aligned is not None
    evidence = TruthEvidence(evaluation.scores[0], evaluation.aligned.category_of)
    return fit(evidence, target, floor=evaluation.floor)


def _require_scores(snapshot: Snapshot) -> None:
    """Refused where scores do not rank boxes: of corrected runs, and of imported boxes that have none."""
    run = snapshot.run
    if "unscored" in run.columns:
        raise Refused(
            f"run {storage.redact(run.uri)} was imported with boxes that have no score, so no threshold can be fitted; "
            "import labels that all have one"
        )
    if "review" in run.columns and run.parent is not None:
        raise Refused(
            f"run {storage.redact(run.uri)} is corrected: reviewed boxes have a score of 1, and wrong ones are gone; "
            f"fit thresholds on what was corrected: labeler calibrate {storage.redact(run.parent.uri)} "
            f"--annotations {storage.redact(run.uri)} ...; they are for exports of both"
        )


def _require_evidence(evaluation: Evaluation) -> None:
    """Refused without objects, or without detections that were judged: every category would be excluded."""
    score, source = evaluation.scores[0], evaluation.truth.source
    if not score.objects.any():
        raise Refused(
            f"annotations {source} have no object of the run's categories in the run's images, so every box would be "
            "wrong; give annotations with objects"
        )
    if not (score.true_positives + score.false_positives).any():
        raise Refused(
            f"the run found nothing that annotations {source} can judge: no box of their categories in their images"
        )


def calibrate_by_marks(snapshot: Snapshot, marks: Marks, target: Target, sample: Sample | None = None) -> Calibration:
    """Thresholds from boxes that somebody marked right or wrong: for a precision only, since nobody counted objects.

    Args:
        marks: of boxes that were drawn by chance within their category and tenth of score (`drawn_evenly`).
        sample: whose boxes the marks are of instead. The thresholds are then for what an export with the sample's
            `--suppress` keeps, and no lower than the sample's.

    Raises:
        Refused: a recall is asked for, marks that are not about this run's boxes, or a sample that was chosen by score.
    """
    if target.measure != "precision":
        raise Refused("marks say how many boxes are right, not how many objects were missed: ask for a precision")
    _require_scores(snapshot)
    floor = snapshot.run.manifest.config["detect"].get("score_floor", 0.0) if snapshot.score.is_detectors else 0.0
    if sample is None:
        found = collect_marks(snapshot, marks)
        return fit(MarkEvidence(found.by_category, found.boxes), target, floor=float(floor))
    found = collect_marks(snapshot, drawn_by_sample(marks, sample))
    asked = sample.population.to_thresholds()
    lowest = {id_: asked.by_category.get(id_, asked.default) for id_ in found.by_category}
    evidence = MarkEvidence(found.by_category, population_of(snapshot, sample), lowest)
    return replace(fit(evidence, target, floor=float(floor)), suppressed=sample.population.suppress is not None)
