"""A reviewed box survives every option of an export, and reviewed images judge the model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler import plain_yaml
from labeler.cli import main
from labeler.commands.export_options import add_selection
from labeler.labels.detections import Detections
from labeler.labels.merge import survive_across_categories
from labeler.runs import Run, open_run
from tests.correction_parts import correct, export, made_run, reviewed_tasks, rows
from tests.label_runs import noisy_run

# Two reviewed boxes over each other, and a thin one; the fourth image has one reviewed box and one that is not.
CROWDED = Detections.of([[10, 10, 50, 50], [11, 10, 50, 50], [60, 5, 60.4, 40]], [0.9, 0.8, 0.3], [1, 2, 2])
HALF = Detections.of([[10, 10, 50, 50], [55, 10, 80, 50]], [0.35, 0.5], [1, 2])
PLAIN = Detections.of([[10, 10, 50, 50]], [0.4], [1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """(a run, corrected: all boxes of three images by Label Studio, and one box of the fourth by a mark)."""
    folder = tmp_path_factory.mktemp("reviewed")
    run = made_run(folder, [CROWDED, PLAIN, PLAIN, HALF])
    back = reviewed_tasks(export(run, "label-studio"), only=[0, 1, 2])
    once = correct(run, str(back), "--from", "label-studio")
    mark = {"image": "000000/3", "box": 0, "category_id": 1, "score": 0.35, "right": True}
    marks = folder / "marks.json"
    marks.write_text(json.dumps({"run": once.manifest.run_id, "marks": [mark]}))
    assert main(["correct", once.uri, str(marks), "--from", "marks", "--output", str(folder / "twice")]) == 0
    twice = open_run(str(folder / "twice"))
    assert twice is not None
    return run, twice


def exported(run: Run, folder: Path, *options: str) -> list[tuple[str, int, float]]:
    """(image, category, score) of each box of a COCO export."""
    target = folder / "coco.json"
    assert main(["export", run.uri, "--to", "coco", "--output", str(target), *options]) == 0
    values = json.loads(target.read_text())
    names = {image["id"]: image["file_name"][-7:] for image in values["images"]}
    return sorted((names[a["image_id"]], a["category_id"], a["score"]) for a in values["annotations"])


REVIEWED = [("000.png", 1, 1.0), ("000.png", 2, 1.0), ("000.png", 2, 1.0)]
REVIEWED += [("001.png", 1, 1.0), ("002.png", 1, 1.0), ("003.png", 1, 1.0)]
NEVER = "default: 0.2\ncategories: {cat: never, dog: never}\n"
# option -> what is asked for, so that a run that nobody reviewed loses boxes by it (None: it loses none).
OPTIONS: dict[str, tuple[list[str], bool]] = {
    "threshold": (["--threshold", "0.95"], True),
    "thresholds": (["--thresholds", "never.yaml"], True),
    "score_below": (["--score-below", "0.2"], True),
    "suppress": (["--suppress", "0.1"], True),
    "min_side": (["--min-side", "1000"], True),
    "area": (["--area", "1e6.."], True),
    "uncertain": (["--threshold", "0.95", "--uncertain", "0.2.."], True),
    "uncertain_as": (["--threshold", "0.95", "--uncertain", "0.2..", "--uncertain-as", "image"], True),
    "boxes": (["--boxes", "7..9"], True),
    "images_per_category": (["--images-per-category", "1"], True),
    "split": (["--split", "train=0.5,val=0.5"], False),
    "group_by": (["--split", "train=0.5,val=0.5", "--group-by", "shard_id"], False),
    "near_copies": (["--split", "train=0.5,val=0.5", "--near-copies", "off"], False),
}
OTHER_SCORES = {"score", "fusion"}  # of a rescored run
CHOOSE = {"categories", "where"}  # what of a run is asked for: these leave reviewed boxes out, too


def test_the_table_has_every_option() -> None:
    parser = argparse.ArgumentParser()
    add_selection(parser)
    assert {action.dest for action in parser._actions} - {"help"} == OPTIONS.keys() | CHOOSE | OTHER_SCORES


@pytest.mark.parametrize("option", OPTIONS)
def test_a_reviewed_box_survives_every_option(
    runs: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "never.yaml").write_text(NEVER)
    run, corrected = runs
    arguments, loses = OPTIONS[option]
    if "--split" in arguments:  # a file for each split
        for of in runs:
            command = ["export", of.uri, "--to", "coco", "--output", str(tmp_path / of.manifest.run_id)]
            assert main([*command, "--images-per-shard", "99", "--suppress", "off", "--min-side", "0", *arguments]) == 0
        found = [
            annotation
            for path in (tmp_path / corrected.manifest.run_id).glob("*.json")
            for annotation in json.loads(path.read_text())["annotations"]
        ]
        assert sum(annotation["score"] == 1 for annotation in found) == len(REVIEWED)
        return
    found_all = exported(corrected, tmp_path, *arguments)
    assert [box for box in found_all if box[2] == 1] == REVIEWED
    plain = ["--suppress", "off", "--min-side", "0"]
    before = exported(run, tmp_path, *(plain if option != "suppress" else ["--min-side", "0"]), *arguments)
    assert (len(before) < 7) == loses


def test_a_category_and_an_image_that_nobody_asked_for_stay_out(runs: tuple[Run, Run], tmp_path: Path) -> None:
    _, corrected = runs
    assert {box[1] for box in exported(corrected, tmp_path, "--categories", "cat")} == {1}
    assert exported(corrected, tmp_path, "--where", "review = 'boxes'")[:1] == [("003.png", 1, 1.0)]


def test_reviewed_boxes_suppress_others_and_never_each_other() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 9, 10], [50, 50, 60, 60], [50, 50, 60, 59]]
    plain = Detections.of(boxes, [1, 1, 0.99, 0.5, 0.6], [1, 2, 3, 1, 2])
    source = np.array(["accepted", "added", None, None, None], np.object_)
    reviewed = Detections(plain.boxes, plain.scores, plain.category_ids, plain.chunks, None, {"source": source})
    assert survive_across_categories(reviewed, iou_above=0.5).tolist() == [True, True, False, False, True]
    assert survive_across_categories(plain, iou_above=0.5).tolist() == [True, False, False, False, True]


def test_evaluate_of_the_corrected_run_keeps_what_an_export_keeps(runs: tuple[Run, Run], tmp_path: Path) -> None:
    """At thresholds that leave all out, with suppression: the reviewed boxes alone are judged."""
    _, corrected = runs
    (tmp_path / "never.yaml").write_text(NEVER)
    command = ["evaluate", corrected.uri, "--annotations", corrected.uri, "--thresholds", str(tmp_path / "never.yaml")]
    assert main([*command, "--output", str(tmp_path / "e.json")]) == 0
    values = json.loads((tmp_path / "e.json").read_text())
    assert values["protocol"]["annotations"]["images"] == 3
    (score,) = (each for each in values["scores"] if each["kind"] == "bbox")
    assert (score["AP50"], score["AR100"]) == (1.0, 1.0)


def noisy_review(folder: Path, *, images: int = 60, reviewed: int = 40) -> tuple[Run, Path, dict[str, Any]]:
    """A run, its review in COCO by somebody who drew exactly the objects of the first images, and the ground truth."""
    run, truth = noisy_run(folder, {3: 1.0, 8: 3.0}, images=images)
    path = folder / "truth.json"
    path.write_text(json.dumps(truth))
    names = [f"{image['file_name']}\n" for image in truth["images"][:reviewed]]
    (folder / "reviewed.txt").write_text("".join(names))
    return run, path, truth


def test_evaluate_and_calibrate_by_a_corrected_run_equal_those_by_its_truth(tmp_path: Path) -> None:
    from tests.label_runs import only_images

    run, path, truth = noisy_review(tmp_path)
    corrected = correct(run, str(path), "--from", "coco", "--reviewed", str(tmp_path / "reviewed.txt"))
    part = tmp_path / "part.json"
    part.write_text(json.dumps(only_images(truth, lambda id_: id_ <= 40)))
    found: list[Any] = []
    target, thresholds = tmp_path / "evaluation.json", tmp_path / "thresholds.yaml"
    for by in (str(part), corrected.uri):
        assert main(["evaluate", run.uri, "--annotations", by, "--output", str(target)]) == 0
        fit = ["calibrate", run.uri, "--annotations", by, "--target", "precision=0.8"]
        assert main([*fit, "--output", str(thresholds), "--force"]) == 0
        values = plain_yaml.parse(thresholds.read_text())[0]
        found.append(
            (json.loads(target.read_text()), {**values, "calibration": {**values["calibration"], "source": ""}})
        )
    (by_file, fitted), (by_run, fitted_by_run) = found
    assert by_run["scores"] == by_file["scores"]
    assert by_run["operating_points"] == by_file["operating_points"]
    assert by_run["protocol"]["images"]["not_annotated"] == 20
    assert fitted_by_run == fitted
    assert main(["export", corrected.uri, "--to", "coco", "--thresholds", str(thresholds)]) == 0


def test_a_run_that_nobody_reviewed_is_not_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path)
    capsys.readouterr()
    assert main(["evaluate", run.uri, "--annotations", run.uri]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a run whose images nobody reviewed" in line


def test_single_boxes_are_not_truth_and_a_corrected_run_fits_no_thresholds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_run(tmp_path)
    marks = tmp_path / "marks.json"
    mark = {"image": "000000/3", "box": 0, "category_id": 4, "score": 0.7, "right": False}
    marks.write_text(json.dumps({"run": run.manifest.run_id, "marks": [mark]}))
    corrected = correct(run, str(marks), "--from", "marks")
    assert [(row.review, len(row.detections)) for row in rows(corrected)][2:] == [(None, 0), ("boxes", 0)]
    capsys.readouterr()
    assert main(["evaluate", run.uri, "--annotations", corrected.uri]) == 2
    assert "of 1 images single boxes were" in capsys.readouterr().err
    fit = ["--annotations", str(marks), "--target", "precision=0.9"]
    assert main(["calibrate", corrected.uri, *fit]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"labeler calibrate {run.uri} --annotations {corrected.uri}" in line
