"""A run against ground truth: matches, rejections, messages and files."""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest

from labeler.cli import main
from labeler.commands import evaluate
from labeler.errors import Refused
from labeler.evaluation import evaluate_results, evaluate_run
from labeler.labels.detections import Detections
from tests.evaluation_runs import DETECT, FIXED, UNITS, ap, row, truth_of, write_run
from tests.evaluation_scenes import rectangle


def test_a_run_without_detections_has_an_ap_of_zero(tmp_path: Path, truth: dict[str, Any]) -> None:
    empty = write_run(tmp_path / "empty", {(0, 0): [row(0, i) for i in range(3)], (1, 0): [row(1, 0)]})
    evaluation = evaluate_run(empty, truth)
    assert ap(evaluation) == 0.0
    assert evaluation.score("COCO") is evaluation.scores[0]


def test_a_run_is_perfect_against_its_own_export(run_uri: str, truth: dict[str, Any]) -> None:
    evaluation = evaluate_run(run_uri, truth)
    assert ap(evaluation) == pytest.approx(1.0)
    assert evaluation.truth.objects_by_category().tolist() == [3, 2]
    best = evaluation.to_dict()["operating_points"][0]["micro_best_f1"]
    assert best == {"threshold": 0.05, "precision": 1.0, "recall": 1.0, "f1": 1.0, "detections": 5}


def test_a_run_scores_as_its_export_does_as_a_results_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def some(count: int) -> Detections:
        corners = rng.uniform(0, 200, (count, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(20, 180, (count, 2))], 1).round(1)
        return Detections.of(boxes, rng.random(count).round(3), rng.choice([3, 8], count))

    units = {(s, u): [row(s, 4 * u + i, some(9)) for i in range(4)] for s in (0, 1) for u in (0, 1)}
    uri = write_run(tmp_path / "run", units)
    exported = truth_of(uri, tmp_path)
    truth = copy.deepcopy(exported)
    truth["annotations"] = [a for a in truth["annotations"] if a["score"] > 0.5]  # ground truth: its confident boxes
    for annotation in truth["annotations"]:
        annotation["bbox"][0] += float(rng.normal(0, 15))
    results = evaluate_results(exported["annotations"], truth).scores[0].summary()
    assert evaluate_run(uri, truth).scores[0].summary() == pytest.approx(results, abs=1e-9)
    assert 0.1 < (results["AP"] or 0) < 0.9


@pytest.mark.parametrize("suppress", ["0.5", "off"])
def test_precision_and_recall_at_thresholds_are_those_of_the_export(tmp_path: Path, suppress: str) -> None:
    """Two names for each object, one of them not annotated everywhere: suppression takes the weaker."""
    rng = np.random.default_rng(1)

    def twice() -> Detections:
        corners = np.arange(4)[:, None] * 90.0 + rng.uniform(0, 5, (4, 2))
        boxes = np.concatenate([corners, corners + 60], 1)
        other = boxes + rng.uniform(-4, 4, (4, 4))
        names = rng.permutation([[3, 8, 7, 3], [8, 7, 3, 8]])
        return Detections.of(np.concatenate([boxes, other]), rng.uniform(0.1, 1, 8), names.reshape(-1))

    categories = [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}, {"id": 7, "name": "cow"}]
    units = {(s, 0): [row(s, i, twice()) for i in range(8)] for s in (0, 1)}
    uri = write_run(tmp_path / "run", units, categories=categories)
    truth = truth_of(uri, tmp_path)
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != 7 and a["id"] % 2]
    truth["categories"] = [c for c in truth["categories"] if c["id"] != 7]
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "t.yaml").write_text("default: 0.3\ncategories: {dog: 0.5}\n")
    export = ["export", uri, "--to", "coco", "--thresholds", str(tmp_path / "t.yaml"), "--suppress", suppress]
    assert main([*export, "--output", str(tmp_path / "kept.json")]) == 0
    kept = json.loads((tmp_path / "kept.json").read_text())["annotations"]
    results = evaluate_results([a for a in kept if a["category_id"] != 7], truth).scores[0]

    evaluate = ["evaluate", uri, "--annotations", str(tmp_path / "gt.json"), "--thresholds", str(tmp_path / "t.yaml")]
    assert main([*evaluate, "--suppress", suppress, "--output", str(tmp_path / "e.json")]) == 0
    written = json.loads((tmp_path / "e.json").read_text())
    for place, one in enumerate(written["operating_points"][0]["categories"]):
        right, wrong = results.true_positives[place, 5], results.false_positives[place, 5]  # at 0.06, below all
        assert one["at"][0]["detections"] == right + wrong
        assert one["at"][0]["precision"] == pytest.approx(right / (right + wrong), abs=1e-6)
    without = evaluate_run(uri, truth, thresholds=str(tmp_path / "t.yaml"))
    assert written["scores"][0]["AP"] == without.scores[0].summary()["AP"], "AP is of each category by itself"
    counts = without.to_dict()["operating_points"][0]["micro"][0]["detections"]
    assert (written["operating_points"][0]["micro"][0]["detections"] < counts) == (suppress != "off")


def test_suppression_without_thresholds_is_refused(run_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", run_uri, "--annotations", "gt.json", "--suppress", "0.5"]) == 2
    assert main(["evaluate", run_uri, "--annotations", "gt.json", "--thresholds", "t", "--suppress", "x"]) == 2
    assert "--suppress is an overlap from 0 to 1, or off; got 'x'" in capsys.readouterr().err


def test_groups_have_their_own_ap(tmp_path: Path, truth: dict[str, Any]) -> None:
    no_dogs = {unit: [replace(r, detections=r.detections[:1]) for r in rows] for unit, rows in UNITS.items()}
    evaluation = evaluate_run(write_run(tmp_path / "cats", no_dogs), truth, groups={"seen": ["cat"], "held out": [8]})
    groups = evaluation.to_dict()["scores"][0]["groups"]
    assert (groups["seen"]["AP"], groups["held out"]["AP"]) == (pytest.approx(1.0), 0.0)
    assert groups["held out"] | {"categories": 1, "categories_with_objects": 1, "objects": 2} == groups["held out"]
    assert ap(evaluation) == pytest.approx(0.5)


def federated(truth: dict[str, Any]) -> dict[str, Any]:
    for image in truth["images"]:
        image |= {"neg_category_ids": [8], "not_exhaustive_category_ids": []}
    return truth


def test_fixed_ap_of_a_capped_argmax_run_is_refused_with_the_reasons(run_uri: str, truth: dict[str, Any]) -> None:
    evaluation = evaluate_run(run_uri, federated(truth))
    assert [one.rules.name for one in evaluation.scores] == ["LVIS"]
    reason = evaluation.refused["LVIS Fixed AP"]
    assert "detect.assignment=argmax" in reason
    assert "detect.max_detections=300" in reason
    assert f"LVIS Fixed AP: refused: {reason}" in evaluation.lines()
    with pytest.raises(Refused, match=r"Fixed AP cannot be measured: detect\.assignment=argmax"):
        evaluate_run(run_uri, truth, fixed_ap=True)


@pytest.mark.parametrize("change", [{"assignment": "flattened"}, {"max_detections": 0}])
def test_either_alone_is_enough_to_refuse_fixed_ap(tmp_path: Path, truth: dict[str, Any], change: Any) -> None:
    uri = write_run(tmp_path / "half", UNITS, detect=change)
    assert list(evaluate_run(uri, federated(truth)).refused) == ["LVIS Fixed AP"]


def test_a_flattened_uncapped_run_has_both(tmp_path: Path, truth: dict[str, Any]) -> None:
    uri = write_run(tmp_path / "flat", UNITS, detect=FIXED)
    evaluation = evaluate_run(uri, federated(truth), fixed_ap=True)
    assert [one.summary()["AP"] for one in evaluation.scores] == pytest.approx([1.0, 1.0])
    assert evaluation.refused == {}
    assert "2 of 2 categories have fewer" in "\n".join(evaluation.lines())


def test_annotations_that_are_not_there_are_named_as_such(
    tmp_path: Path, run_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nope.json"
    assert main(["evaluate", run_uri, "--annotations", str(missing)]) == 2
    assert capsys.readouterr().err == f"labeler: annotations {missing}: no such file\n"


def test_fixed_ap_on_coco_annotations_is_refused(tmp_path: Path, truth: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="not federated"):
        evaluate_run(write_run(tmp_path / "flat", UNITS, detect=FIXED), truth, fixed_ap=True)


def test_masks_are_evaluated_when_the_run_has_them(tmp_path: Path) -> None:
    uri = write_run(tmp_path / "masks", UNITS, masks=True)
    truth = truth_of(uri, tmp_path)
    for annotation in truth["annotations"]:
        annotation["segmentation"] = rectangle(annotation["bbox"])
    evaluation = evaluate_run(uri, truth)
    assert [(s.kind, s.summary()["AP"]) for s in evaluation.scores] == [("bbox", 1.0), ("segm", 1.0)]
    for annotation in truth["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = rectangle([x, y, width / 4, height])
    evaluation = evaluate_run(uri, truth)
    assert [s.summary()["AP"] for s in evaluation.scores] == [1.0, 0.0]
    assert len(evaluation.to_dict()["operating_points"]) == 2


def test_a_run_without_masks_cannot_be_asked_for_them(run_uri: str, truth: dict[str, Any]) -> None:
    for annotation in truth["annotations"]:
        annotation["segmentation"] = rectangle(annotation["bbox"])
    with pytest.raises(Refused, match="have no mask"):
        evaluate_run(run_uri, truth, masks=True)


def test_the_protocol_says_how_the_numbers_were_reached(run_uri: str, truth: dict[str, Any]) -> None:
    evaluation = evaluate_run(run_uri, truth)
    decoding = evaluation.protocol["decoding"]
    assert decoding | DETECT == decoding
    text = "\n".join(evaluation.lines())
    for words in ("argmax", "score floor 0.05", "at most 300 an image", "NMS 0.7", "4 images", "pycocotools"):
        assert words in text


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    evaluate.add(parser.add_subparsers())
    parsed = parser.parse_args(["evaluate", *arguments])
    code: int = parsed.run(parsed)
    return code


def test_the_command_prints_and_writes_beside_the_run(
    run_uri: str, truth: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "groups.yaml").write_text("pets: [cat, dog]\n")
    assert command(run_uri, "--annotations", str(tmp_path / "gt.json"), "--groups", str(tmp_path / "groups.yaml")) == 0
    printed = capsys.readouterr().out
    assert "COCO, boxes             AP 1.000" in printed
    assert "pets" in printed
    written = json.loads((Path(run_uri) / "evaluation.json").read_text())
    assert written == json.loads(
        json.dumps(evaluate_run(run_uri, tmp_path / "gt.json", groups={"pets": [3, 8]}).to_dict())
    )
    assert written["scores"][0]["categories"][0]["name"] == "cat"


def test_the_command_takes_a_results_file_and_another_output(
    run_uri: str, truth: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text(json.dumps(truth["annotations"]))
    arguments = [str(tmp_path / "results.json"), "--annotations", str(tmp_path / "gt.json")]
    assert command(*arguments, "--output", str(tmp_path / "out.json")) == 0
    assert json.loads((tmp_path / "out.json").read_text())["scores"][0]["AP"] == pytest.approx(1.0)
    assert "floor, cap and assignment unknown" in capsys.readouterr().out
    with pytest.raises(Refused, match="are for runs"):
        command(*arguments, "--partial")


@pytest.mark.parametrize(
    "text", ["[1]", "{}", "[", '[{"image_id": 1}]', '[{"image_id": 77, "category_id": 1, "score": 1}]']
)
def test_a_bad_results_file_is_refused(truth: dict[str, Any], tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(Refused, match="results"):
        evaluate_results(tmp_path / "results.json", truth)


def _short_mask(size: list[int]) -> dict[str, Any]:
    """The runs end before the image does; pycocotools compares such a mask forever."""
    return pycocotools.mask.frPyObjects({"size": size, "counts": [5, 9, 4]}, *size) | {"size": size}


@pytest.mark.parametrize("side", ["truth", "results"])
@pytest.mark.parametrize("as_list", [True, False])
def test_a_mask_whose_runs_do_not_fill_its_image_is_refused_instead_of_compared_forever(
    truth: dict[str, Any], tmp_path: Path, side: str, as_list: bool
) -> None:
    image = truth["images"][0]
    size = [image["height"], image["width"]]
    short = {"size": size, "counts": [5, 9, 4] if as_list else _short_mask(size)["counts"].decode()}
    whole = {"size": size, "counts": [5, 9, size[0] * size[1] - 14]}
    note = truth["annotations"][0] | {"image_id": image["id"], "score": 0.5}
    (tmp_path / "gt.json").write_text(
        json.dumps(truth | {"annotations": [note | {"segmentation": short if side == "truth" else whole}]})
    )
    (tmp_path / "results.json").write_text(json.dumps([note | {"segmentation": short if side == "results" else whole}]))
    command = [sys.executable, "-m", "labeler", "evaluate", str(tmp_path / "results.json")]
    ended = subprocess.run(
        [*command, "--annotations", str(tmp_path / "gt.json")],
        capture_output=True, text=True, timeout=300, check=False, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert f"runs fill {size[0]} x {size[1]} pixels" in ended.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": "cat"}, "category_id must be a whole number, got 'cat'"),
        ({"category_id": None}, "category_id must be a whole number, got None"),
        ({"category_id": [3]}, "category_id must be a whole number"),
        ({"category_id": True}, "category_id must be a whole number"),
        ({"category_id": 3.5}, "category_id must be a whole number"),
        ({"image_id": [1]}, "image_id must be a whole number"),
        ({"image_id": "1"}, "image_id must be a whole number"),
        ({"score": True}, "score must be a number"),
        ({"score": 10**400}, "score must be a number"),
        ({"bbox": [True, 1, 2, 3]}, "bbox must be"),
        ({"bbox": [10**400, 1, 2, 3]}, "bbox must be"),
    ],
)
def test_bad_values_of_results_are_counted_and_named(
    truth: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    results = [note | {"score": 0.5} for note in truth["annotations"]]
    results[1] |= change
    with pytest.raises(Refused, match="1 bad entries") as refused:
        evaluate_results(results, truth)
    assert refused.value.problems[0].startswith(f"[1]: {message}")
    assert len(refused.value.problems[0]) < 150


def test_detections_of_categories_that_the_annotations_lack_are_counted(truth: dict[str, Any]) -> None:
    results = [note | {"score": 0.5} for note in truth["annotations"]]
    for note in results[1:]:
        note["category_id"] = 77
    (line,) = [note for note in evaluate_results(results, truth).protocol["notes"] if "category_id" in note]
    assert line.startswith(f"{len(results) - 1} of {len(results)} detections")
    assert line.endswith("77")
