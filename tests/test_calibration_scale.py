"""The scale of scores: the best rising fit there is, kept in the file, and refused where it is about another run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from labeler.calibration.evidence import MarkEvidence
from labeler.calibration.scale import ScoreScale, fit_scale, read_scale
from labeler.cli import main
from labeler.errors import Refused
from labeler.evaluation.average_precision import SCORE_THRESHOLDS, at_least
from tests.label_runs import noisy_run, write_run

BINS = len(SCORE_THRESHOLDS)


def best_rising(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Isotonic regression by its min-max formula: max over starts of the min over ends of weighted means."""
    n = len(values)
    sums, total = (np.append(0, np.cumsum(each)) for each in (values * weights, weights))
    with np.errstate(divide="ignore", invalid="ignore"):
        means = (sums[None] - sums[:, None]) / (total[None] - total[:, None])  # [start, end)
    return np.array([max(means[a, i + 1 :].min() for a in range(i + 1)) for i in range(n)])


@pytest.mark.parametrize("seed", range(3))
def test_the_scale_is_the_isotonic_regression(seed: int) -> None:
    rng = np.random.default_rng(seed)
    judged = rng.integers(0, 40, BINS).astype(float)
    right = rng.binomial(judged.astype(int), SCORE_THRESHOLDS**2).astype(float)
    middle = SCORE_THRESHOLDS + 0.005
    expected = best_rising((right + 0.1 * middle) / (judged + 0.1), judged + 0.1)
    scale = fit_scale(right, judged)
    found = set(scale.precisions[1:-1].round(4).tolist())
    assert found == set(np.unique(expected.round(6)).round(4).tolist())


def test_a_scale_keeps_the_order_of_all_scores() -> None:
    right, judged = np.zeros(BINS), np.full(BINS, 20.0)
    right[50:] = 20
    scale = fit_scale(right, judged)
    scores = np.linspace(0, 1, 2001, dtype=np.float32)
    assert (np.diff(scale.apply(scores)) > 0).all(), "never right and always right: still a ranking"
    assert (scale.apply(scores)[[0, -1]] == [0, 1]).all()
    assert scale.apply(np.array([0.2], np.float32))[0] < 0.1
    assert scale.apply(np.array([0.8], np.float32))[0] > 0.9


def test_without_evidence_a_score_stays_what_it_is() -> None:
    scores = np.linspace(0, 1, 11, dtype=np.float32)
    np.testing.assert_allclose(fit_scale(np.zeros(BINS), np.zeros(BINS)).apply(scores), scores, atol=1e-4)


def test_calibrate_writes_the_precision_of_each_score_and_fuse_reads_it(tmp_path: Path) -> None:
    run, truth = noisy_run(tmp_path / "run", {3: 2.0, 8: 2.0}, images=100)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    assert main(["calibrate", run.uri, "--annotations", str(tmp_path / "gt.json"), "--target", "precision=0.5"]) == 0
    scale = read_scale(f"{run.uri}/thresholds.yaml", run)
    scores = np.array([0.3, 0.5, 0.7, 0.9], np.float32)
    np.testing.assert_allclose(scale.apply(scores), scores**2, atol=0.08)  # as `noisy_run` draws them
    again = ScoreScale.from_dict(scale.to_dict())
    np.testing.assert_array_equal(again.apply(scores), scale.apply(scores))


def test_marks_stand_for_the_boxes_of_their_category_and_score() -> None:
    rng = np.random.default_rng(0)
    many, few = rng.uniform(0.05, 1, 5000), rng.uniform(0.05, 1, 50)
    boxes = {1: at_least(many), 2: at_least(few)}
    marks = {1: np.stack([many[:200], np.ones(200)], 1), 2: np.stack([few, np.zeros(50)], 1)}
    right, judged = MarkEvidence(marks, boxes).by_score()
    assert judged.sum() == pytest.approx(250)
    assert right.sum() / judged.sum() == pytest.approx(5000 / 5050, abs=0.01), "not 200 of 250"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values["calibration"].pop("scale"), "does not say how often boxes with each score are right"),
        (lambda values: values.pop("calibration"), "fuse with --raw-scores"),
        (lambda values: values["calibration"].update(scale={0: 0, 0.5: 0.9, 0.6: 0.8, 1: 1}), "must rise from 0 to 1"),
        (lambda values: values["calibration"].update(scale={0: 0, 1: float("nan")}), "must rise from 0 to 1"),
        (lambda values: values["calibration"].update(scale={0: "x"}), "must map scores to precisions"),
        (lambda values: values["fitted_on"].update(model="other"), "were fitted on another model"),
    ],
)
def test_a_file_that_is_not_of_this_run_is_refused(tmp_path: Path, change: object, message: str) -> None:
    run, truth = noisy_run(tmp_path / "run", {3: 1.0, 8: 1.0}, images=20)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    file = tmp_path / "t.yaml"
    command = ["calibrate", run.uri, "--annotations", str(tmp_path / "gt.json"), "--target", "precision=0.5"]
    assert main([*command, "--output", str(file)]) == 0
    values = yaml.safe_load(file.read_text())
    change(values)  # type: ignore[operator]
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(Refused, match=message):
        read_scale(str(file), run)


def test_thresholds_of_the_first_run_are_refused_on_a_fusion_of_it(tmp_path: Path) -> None:
    run, truth = noisy_run(tmp_path / "run", {3: 1.0, 8: 1.0}, images=20)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    assert main(["calibrate", run.uri, "--annotations", str(tmp_path / "gt.json"), "--target", "precision=0.5"]) == 0
    fused = write_run(tmp_path / "fused", {}, fields={"fused.with": ["x"], "fused.method": "wbf"})
    with pytest.raises(Refused, match=r"were fitted on another fused\.with, fused\.method"):
        read_scale(f"{run.uri}/thresholds.yaml", fused)
