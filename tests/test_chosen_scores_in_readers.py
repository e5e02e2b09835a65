"""`--score` of calibrate, export, evaluate and report, and what thresholds of one score say to another."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from labeler.cli import main
from labeler.errors import Refused
from labeler.evaluation import evaluate_run
from labeler.labels.chosen_score import ChosenScore
from labeler.runs import Run, read_snapshot
from labeler.runs.fitted_on import fitted_on, require_fitted_on
from tests.label_runs import row, write_run
from tests.rescored_runs import FIELDS, PER_IMAGE, rescored_run


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return tmp_path / "truth.json"


@pytest.fixture
def run(tmp_path: Path, truth: Path) -> Run:
    run, annotations = rescored_run(tmp_path / "run")
    truth.write_text(json.dumps(annotations))
    return run


def calibrate(run: Run, truth: Path, score: str, to: Path | None = None) -> int:
    more = ["--output", str(to)] if to else []
    command = ["calibrate", run.uri, "--annotations", str(truth), "--target", "precision=0.8", "--score", score]
    return main([*command, *more])


def exported(run: Run, folder: Path, *options: str) -> list[dict[str, Any]]:
    out = folder / f"{len(list(folder.iterdir()))}.json"
    assert main(["export", run.uri, "--to", "coco", "--output", str(out), "--suppress", "off", *options]) == 0
    found: list[dict[str, Any]] = json.loads(out.read_text())["annotations"]
    return found


def stored(run: Run) -> list[dict[str, Any]]:
    return [box for table in read_snapshot(run).tables() for found in table["detections"].to_pylist() for box in found]


def test_both_scores_together_are_worth_more_than_each_alone(
    run: Run, truth: Path, tmp_path: Path, capsys: Any
) -> None:
    assert calibrate(run, truth, "fused") == 0
    printed = capsys.readouterr().out
    assert re.match(
        r"fused = sigmoid\(-?0\.\d+ \+ 1\.\d+ logit\(score\) \+ 1\.\d+ logit\(score2\)\), fitted on 800", printed
    )
    written = yaml.safe_load((tmp_path / "run/thresholds.yaml").read_text())["fitted_on"]
    assert written["score"] == "fused"
    assert {name: written[name] for name in FIELDS} == FIELDS
    assert set(written["fusion"]) == {"intercept", "score", "score2"}
    aps = {}
    for score in ("score", "score2", "fused"):
        out = tmp_path / f"{score}.json"
        options = ["--annotations", str(truth), "--score", score, "--output", str(out)]
        assert main(["evaluate", run.uri, *options]) == 0  # the fusion is that of RUN/thresholds.yaml
        result = json.loads(out.read_text())
        assert result["protocol"].get("score", "score") == score
        aps[score] = result["scores"][0]["AP"]
    assert aps["fused"] > max(aps["score"], aps["score2"]) + 0.02
    assert aps["score"] == evaluate_run(run.uri, str(truth)).scores[0].summary()["AP"]
    evaluation = evaluate_run(run.uri, str(truth), score=ChosenScore("score2"))
    two = evaluation.scores[0]
    assert evaluation.floor == 0, "all stored boxes are known of, whatever their second score"
    assert aps["score2"] == two.summary()["AP"] != aps["score"]


def test_an_export_has_the_chosen_score_and_its_thresholds_are_about_it(run: Run, truth: Path, tmp_path: Path) -> None:
    thresholds = tmp_path / "two.yaml"
    assert calibrate(run, truth, "score2", thresholds) == 0
    (tmp_path / "exports").mkdir()
    folder, boxes = tmp_path / "exports", stored(run)
    limits = yaml.safe_load(thresholds.read_text())["categories"]
    chosen = exported(run, folder, "--score", "score2", "--thresholds", str(thresholds))
    wanted = [
        b["score2"] for b in boxes if b["score2"] >= np.float32(limits["cat" if b["category_id"] == 3 else "dog"])
    ]
    assert sorted(box["score"] for box in chosen) == pytest.approx(sorted(wanted), abs=1e-6)
    assert 50 < len(wanted) < len(boxes)
    above = exported(run, folder, "--score", "score2", "--threshold", "0.5", "--score-below", "0.7")
    assert len(above) == sum(0.5 <= box["score2"] < np.float32(0.7) for box in boxes)
    assert len(exported(run, folder, "--threshold", "0.5")) == sum(box["score"] >= 0.5 for box in boxes)
    assert all(box["score"] >= 0.3 for box in exported(run, folder, "--score", "score2", "--threshold", "0.3"))


def test_conditions_see_all_scores_and_parquet_tables_have_them(run: Run, truth: Path, tmp_path: Path) -> None:
    assert calibrate(run, truth, "fused") == 0
    fused = ["--score", "fused", "--fusion", str(tmp_path / "run/thresholds.yaml")]
    table = tmp_path / "tables"
    assert main(["export", run.uri, "--to", "parquet", "--output", str(table), "--suppress", "off", *fused]) == 0
    rows = pq.read_table(next((table / "boxes").glob("*.parquet"))).to_pylist()
    assert "| score thresholds | of `fused`, 0.0 by default |" in (table / "README.md").read_text()
    scores = [sorted((box["score"], box["score2"]) for box in boxes) for boxes in (rows, stored(run))]
    assert scores[0] == scores[1]
    fusion = yaml.safe_load((tmp_path / "run/thresholds.yaml").read_text())["fitted_on"]["fusion"]
    for box in rows[:50]:
        odds = fusion["intercept"] + sum(fusion[n] * np.log(box[n] / (1 - box[n])) for n in ("score", "score2"))
        assert box["fused"] == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-4)
    (tmp_path / "exports").mkdir()
    for name in ("score2", "fused"):
        condition = f"len([d for d in detections if d.{name} > 0.5]) >= 11"
        options = [*(fused if name == "fused" else ()), "--where", condition]
        images = {box["image_id"] for box in exported(run, tmp_path / "exports", *options)}
        counts: dict[int, int] = {}
        for box in rows:
            counts[box["image_id"]] = counts.get(box["image_id"], 0) + (box[name] > 0.5)
        assert images == {image for image, count in counts.items() if count >= 11}
        assert 0 < len(images) < 40
    plain = tmp_path / "plain"
    assert main(["export", run.uri, "--to", "parquet", "--output", str(plain), "--suppress", "off"]) == 0
    names = pq.read_schema(next((plain / "boxes").glob("*.parquet"))).names
    assert "score2" in names
    assert "fused" not in names


def test_a_report_shows_the_chosen_score_and_its_thresholds_say_so(run: Run, truth: Path, tmp_path: Path) -> None:
    assert main(["report", run.uri, "--score", "score2", "--annotations", str(truth), "--threshold", "0.5"]) == 0
    text = (tmp_path / "run/report.html").read_text()
    data = json.loads(re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    assert data["score"] == data["fitted_on"]["score"] == "score2"
    assert data["floor"] == 0
    counted = sum(sum(category["scores"].values()) for category in data["categories"])
    low = sum(count for c in data["categories"] for step, count in c["scores"].items() if int(step) < 50)
    boxes = stored(run)
    assert (counted, low) == (len(boxes), sum(box["score2"] < 0.5 for box in boxes))
    shown = {np.float32(box[2]) for image in data["images"] for box in image["boxes"]}
    assert shown == {np.float32(box["score2"]) for box in boxes}


def test_boxes_without_a_second_score_count_as_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, truth = rescored_run(tmp_path / "run", images=10, missing=3)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "exports").mkdir()
    assert len(exported(run, tmp_path / "exports", "--score", "score2")) == 10 * PER_IMAGE
    assert len(exported(run, tmp_path / "exports", "--score", "score2", "--threshold", "0.001")) == 10 * (PER_IMAGE - 3)
    assert calibrate(run, tmp_path / "truth.json", "fused") == 0
    assert f"fitted on {10 * (PER_IMAGE - 3)} boxes" in capsys.readouterr().out


def test_a_run_without_second_scores_is_refused_with_the_command_for_them(
    tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write_run(tmp_path / "plain", {(0, 0): [row(0)]})
    truth.write_text("{}")
    marks = tmp_path / "marks.json"
    marks.write_text(json.dumps({"run": plain.manifest.run_id, "marks": []}))
    for command in (
        ["calibrate", plain.uri, "--annotations", str(truth), "--target", "precision=0.9"],
        ["calibrate", plain.uri, "--marks", str(marks), "--target", "precision=0.9"],
        ["evaluate", plain.uri, "--annotations", str(truth)],
        ["export", plain.uri, "--to", "coco"],
        ["report", plain.uri],
    ):
        for score in ("score2", "fused"):
            assert main([*command, "--score", score]) == 2
            said = capsys.readouterr().err
            assert f"--score {score}: run {plain.uri} has no second scores; make them with `labeler rescore" in said
            assert len(said.splitlines()) == 1


def test_a_fused_score_needs_a_file_that_has_it(run: Run, truth: Path, tmp_path: Path, capsys: Any) -> None:
    evaluate = ["evaluate", run.uri, "--annotations", str(truth), "--score", "fused"]
    assert main(evaluate) == 2
    assert "run/thresholds.yaml is missing; fit one with `labeler calibrate --score fused`" in capsys.readouterr().err
    assert calibrate(run, truth, "score2") == 0
    capsys.readouterr()
    assert main(evaluate) == 2
    assert "thresholds.yaml have no fusion; fit one with" in capsys.readouterr().err
    assert main(["evaluate", run.uri, "--annotations", str(truth), "--fusion", "x.yaml"]) == 2
    assert "--fusion is for --score fused" in capsys.readouterr().err
    damaged = tmp_path / "damaged.yaml"
    damaged.write_text("default: 0.5\nfitted_on: {score: fused, fusion: {intercept: 1}}\n")
    assert main([*evaluate, "--fusion", str(damaged)]) == 2
    assert "fitted_on.fusion is damaged: a fusion has intercept, score, score2" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "results.json"), "--annotations", str(truth), "--score", "score2"]) == 2
    assert "are for runs, not for a results file" in capsys.readouterr().err


def test_thresholds_of_one_score_are_refused_on_another_by_name(
    run: Run, truth: Path, tmp_path: Path, capsys: Any
) -> None:
    files = {score: tmp_path / f"{score}.yaml" for score in ("score", "score2", "fused")}
    for score, path in files.items():
        assert calibrate(run, truth, score, path) == 0
    capsys.readouterr()
    for fitted, path in files.items():
        for asked in files:
            command = ["evaluate", run.uri, "--annotations", str(truth), "--score", asked, "--thresholds", str(path)]
            command += ["--fusion", str(files["fused"])] if asked == "fused" else []
            code = main([*command, "--output", str(tmp_path / "e.json"), "--force"])
            assert code == (0 if fitted == asked else 2), (fitted, asked)
            if code:
                said = capsys.readouterr().err
                assert (
                    f"were fitted on score={fitted}, and boxes are to be chosen by score={asked}; use them with" in said
                )


def test_thresholds_of_another_packing_model_or_second_model_are_refused_by_name(tmp_path: Path) -> None:
    rows = {(0, 0): [row(0)]}
    run = write_run(tmp_path / "run", rows, columns=("score2",), fields=FIELDS)
    two = ChosenScore("score2")
    sections = {score: fitted_on(run, score) for score in (ChosenScore(), two)}
    assert not set(sections[ChosenScore()]) & {"score", *FIELDS}, "of the detector's score, as before"
    for place, field in enumerate(("prompts", "model", *FIELDS)):
        other = write_run(tmp_path / str(place), rows, columns=("score2",), fields={**FIELDS, field: "another"})
        with pytest.raises(Refused, match=rf"were fitted on another {field} than run") as refused:
            require_fitted_on(sections[two], other, source="f", score=two)
        assert list(refused.value.problems) == [f"{field}: the file has {sections[two][field]}, the run another"]
        if field in FIELDS:  # the detector's score is the same, whatever model looked at its boxes
            require_fitted_on(sections[ChosenScore()], other, source="f")
    plain = write_run(tmp_path / "plain", rows)
    require_fitted_on(sections[ChosenScore()], plain, source="f")
    require_fitted_on({}, run, source="f", score=two)  # written by hand


def test_fusions_with_other_coefficients_are_other_scores(run: Run, truth: Path, tmp_path: Path, capsys: Any) -> None:
    fused, other = tmp_path / "fused.yaml", tmp_path / "other.yaml"
    assert calibrate(run, truth, "fused", fused) == 0
    values = yaml.safe_load(fused.read_text())
    values["fitted_on"]["fusion"]["score2"] = 9.0
    other.write_text(yaml.safe_dump(values))
    capsys.readouterr()
    command = [
        "export",
        run.uri,
        "--to",
        "coco",
        "--score",
        "fused",
        "--thresholds",
        str(fused),
        "--fusion",
        str(other),
    ]
    assert main(command) == 2
    assert "were fitted on another fusion than run" in capsys.readouterr().err


def test_an_export_that_began_with_one_score_is_not_continued_with_another(
    run: Run, tmp_path: Path, capsys: Any
) -> None:
    command = ["export", run.uri, "--to", "odvg", "--output", str(tmp_path / "odvg")]
    assert main(command) == 0
    assert main(command) == 0
    capsys.readouterr()
    parts = ["export", run.uri, "--to", "parquet", "--output", str(tmp_path / "tables")]
    assert main(parts) == 0
    assert main([*parts, "--score", "score2"]) == 2
    assert "holds an export of something else (another selection)" in capsys.readouterr().err
