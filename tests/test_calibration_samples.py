"""Thresholds from marks that say how their boxes were chosen: evenly, by a sample, or because of their scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from labeler.calibration import calibrate_by_marks, parse_target
from labeler.calibration.designs import drawn_by_sample, drawn_evenly
from labeler.calibration.evidence import MarkEvidence
from labeler.calibration.marks import Mark, Marks, read_marks
from labeler.cli import main
from labeler.errors import Refused
from labeler.evaluation.average_precision import SCORE_THRESHOLDS
from labeler.exports.sampled import Sample, Strategy, read_sample
from labeler.exports.selection import Selection
from labeler.labels.thresholds import NEVER, Thresholds
from labeler.review.sampling.draw import Pilot, Request, draw_sample
from labeler.runs import read_snapshot
from tests.sample_parts import Known, refused, sample


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return Known(tmp_path_factory.mktemp("known"))


def test_boxes_that_were_drawn_more_often_than_others_of_their_tenth_do_not_speak_for_those() -> None:
    """1,000 boxes with scores from .3 to .4: the lower half is wrong and was drawn nine times as often."""
    at_least = (1000 * (SCORE_THRESHOLDS <= 0.3 + 1e-9)).astype(np.int64)
    marks = np.array([(0.31, 0, 500 / 90)] * 90 + [(0.38, 1, 500 / 10)] * 10, np.float64)
    place = int(np.abs(SCORE_THRESHOLDS - 0.3).argmin())
    assert MarkEvidence({3: marks[:, :2]}, {3: at_least}).curve([3]).precision[place] == pytest.approx(0.1)
    curve = MarkEvidence({3: marks}, {3: at_least}, {3: 0.3}).curve([3])
    assert curve.precision[place] == pytest.approx(0.5)
    assert curve.support[place] == pytest.approx(36, rel=0.1), "Kish: 10 boxes carry half of the weight"
    assert np.isnan(curve.precision[:place]).all(), "no box was drawn below"
    assert not curve.support[:place].any()


def true_precision(known: Known, threshold: float) -> float:
    return known.precision(threshold) if threshold < NEVER else 1.0


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.7, 0.85])
def test_over_many_samples_the_thresholds_reach_the_target_as_often_as_they_promise(
    known: Known, target: float
) -> None:
    """A pilot of 100 boxes and 200 more, one threshold for all, at 90% confidence, with ground truth for every box."""
    snapshot, asked = read_snapshot(known.run), parse_target(f"precision={target}", min_judged=10_000)
    selection = Selection(thresholds=Thresholds(0.2), min_side=1.0)
    reached, near_only = list[bool](), list[float]()
    for seed in range(60):
        few = draw_sample(snapshot, Request("estimate", selection, 100, seed=seed))
        first = judged(known, few)
        pilot = Pilot(np.array([m.score for m in first.marks]), np.array([float(m.right) for m in first.marks]), few)
        drawn = draw_sample(snapshot, Request("estimate", selection, 300, seed=seed, pilot=pilot))
        found = calibrate_by_marks(snapshot, judged(known, drawn), asked, drawn).fallback
        reached.append(true_precision(known, found.threshold) >= target)
        assert found.threshold >= 0.2
        near = draw_sample(snapshot, Request("margin", selection, 300, seed=seed))
        with pytest.raises(Refused, match="chosen by margin"):
            calibrate_by_marks(snapshot, judged(known, near), asked, near)
        near_only.append(calibrate_by_marks(snapshot, judged(known, near), asked).fallback.threshold)
    assert np.mean(reached) >= 0.85
    assert np.mean(np.array(near_only) == NEVER) > 0.9, "marks of boxes near the threshold would leave everything out"


def judged(known: Known, drawn: Sample) -> Marks:
    found = [
        Mark(
            image=f"{image.shard_id}/{image.index}",
            box=box.box,
            category_id=box.category_id,
            score=box.score,
            right=known.right[image.index, box.box],
        )
        for image, box in drawn.boxes
    ]
    return Marks("m", known.run.manifest.run_id, tuple(found))


def calibrate(known: Known, *arguments: str, target: str = "precision=0.7") -> list[str]:
    return ["calibrate", known.run.uri, *arguments, "--target", target, "--force"]


def test_marks_of_a_sample_give_thresholds_that_are_those_of_what_it_was_drawn_from(
    known: Known, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.json"
    sample(known.run, path, "--strategy", "estimate", "--n", "400", "--threshold", "0.25", "--suppress", "off")
    out, some = tmp_path / "t.yaml", known.marks(path)
    half, other = tmp_path / "half.json", tmp_path / "other.json"
    values = json.loads(some.read_text())
    for part, name in ((values["marks"][::2], half), (values["marks"][1::2], other)):
        name.write_text(json.dumps(values | {"marks": part}))
    files = ["--marks", str(half), "--marks", str(other)]
    assert main(calibrate(known, *files, "--sample", str(path), "--output", str(out))) == 0
    at_once = tmp_path / "once.yaml"
    assert main(calibrate(known, "--marks", str(some), "--sample", str(path), "--output", str(at_once))) == 0
    lines = [file.read_text().replace(str(name), "") for file, name in ((out, half), (at_once, some))]
    assert (
        lines[0].split("categories:")[1].split("fitted_on")[0] == lines[1].split("categories:")[1].split("fitted_on")[0]
    )
    found = read_snapshot(known.run), read_marks(str(some))
    fitted = calibrate_by_marks(*found, parse_target("precision=0.7"), read_sample(str(path), known.run))
    for choice in fitted.choices:
        assert choice.category_id is not None
        assert 0.25 <= choice.threshold < 1
        assert choice.precision is not None
        truth = known.precision(choice.threshold, choice.category_id)
        assert choice.precision.low <= truth <= choice.precision.high


STRATEGIES: dict[Strategy, str | None] = {
    "estimate": None, "random": None, "mixed": None, "margin": "chosen by margin", "rare": "chosen by rare",
    "suspicious": "chosen by suspicious",
}  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_marks_of_boxes_that_were_drawn_by_chance_calibrate(
    known: Known, tmp_path: Path, capsys: pytest.CaptureFixture[str], strategy: Strategy
) -> None:
    path, why = tmp_path / "s.json", STRATEGIES[strategy]
    sample(known.run, path, "--strategy", strategy, "--n", "200", "--suppress", "off")
    marks = known.marks(path)
    command = calibrate(known, "--marks", str(marks), "--output", str(tmp_path / "t.yaml"))
    assert "do not say how their boxes were chosen" in refused(capsys, *command)
    if why is not None:
        assert why in refused(capsys, *command, "--sample", str(path))
        return
    assert main([*command, "--sample", str(path)]) == 0
    drawn = drawn_by_sample(read_marks(str(marks)), read_sample(str(path), known.run))
    assert len(drawn.marks) == (60 if strategy == "mixed" else 200)
    total = json.loads(path.read_text())["population"]["boxes"]
    assert sum(drawn.weights) == pytest.approx(total)


def test_what_does_not_fit_the_sample_is_a_line(
    known: Known, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.json"
    sample(known.run, path, "--strategy", "estimate", "--n", "100")
    marks = known.marks(path)
    values = json.loads(marks.read_text())
    lowest = json.loads(path.read_text())["strata"][1]["lowest_score"]
    marks.write_text(json.dumps(values | {"marks": [one for one in values["marks"] if one["score"] > lowest]}))
    command = calibrate(known, "--marks", str(marks), "--output", str(tmp_path / "t.yaml"))
    assert "no box of stratum 0 was judged" in refused(capsys, *command, "--sample", str(path))
    whole = calibrate(known, "--annotations", "x.json", "--sample", str(path))
    assert "--sample goes with --marks" in refused(capsys, *whole)
    edited = json.loads(path.read_text())
    edited["population"]["boxes"] += 1
    path.write_text(json.dumps(edited))
    marks.write_text(json.dumps(values))
    assert "draw a new sample" in refused(capsys, *command, "--sample", str(path))
    assert not (tmp_path / "t.yaml").exists()


def test_of_marks_from_a_page_only_those_drawn_by_chance_count(tmp_path: Path) -> None:
    marks = [Mark(image="000000/0", box=box, category_id=3, score=0.5, right=True, drawn=box < 2) for box in range(5)]
    assert [mark.box for mark in drawn_evenly(Marks("m", "r", tuple(marks))).marks] == [0, 1]
    with pytest.raises(Refused, match="no marked box was drawn by chance"):
        drawn_evenly(Marks("m", "r", tuple(marks[2:])))
