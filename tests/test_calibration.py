"""Calibration: the precision asked for is reached on images it did not see, and files are refused elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from labeler.calibration import calibrate_by_annotations, parse_target
from labeler.cli import main
from labeler.errors import Refused
from labeler.evaluation import evaluate_run
from labeler.evaluation.intervals import two_sided, wilson
from labeler.labels.detections import Detections
from labeler.labels.thresholds import NEVER
from labeler.runs import Run, read_snapshot
from labeler.runs.fitted_on import thresholds_for
from tests.label_runs import noisy_run, only_images, row, write_run

SHARPNESS = {3: 1.0, 8: 0.5}  # chance of being right: score, and its square root


def is_seen(image_id: int) -> bool:
    return image_id % 2 == 0


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Any]]:
    return noisy_run(tmp_path_factory.mktemp("noisy") / "run", SHARPNESS, images=300)


@pytest.mark.parametrize(
    ("detections", "objects", "message"),
    [
        (0, 1, "the run found nothing that annotations"),
        (1, 0, "have no object of the run's categories"),
        (0, 0, "have no object of the run's categories"),
    ],
)
def test_where_nothing_is_judged_there_is_nothing_to_calibrate_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], detections: int, objects: int, message: str
) -> None:
    found = Detections.of([[0, 0, 9, 9]] * detections, [0.9] * detections, [3] * detections)
    run = write_run(tmp_path / "run", {(0, 0): [row(0, found)]})
    truth = {
        "images": [{"id": 1, "file_name": "part-0.tar/0.jpg", "width": 640, "height": 480}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 9, 9]}] * objects,
    }
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    command = ["calibrate", run.uri, "--annotations", str(tmp_path / "gt.json"), "--target", "precision=0.9"]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "run" / "thresholds.yaml").exists()


def test_a_file_that_keeps_nothing_is_said_to(
    noisy: tuple[Run, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, truth = noisy
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    command = ["calibrate", run.uri, "--annotations", str(tmp_path / "gt.json"), "--output", str(tmp_path / "t.yaml")]
    assert main([*command, "--target", "precision=0.9999"]) == 0
    assert "warning: nothing reaches the target, every category is excluded" in capsys.readouterr().out
    assert main([*command, "--target", "precision=0.8"]) == 0
    assert "warning" not in capsys.readouterr().out


def certain_run(folder: Path) -> tuple[Run, Path]:
    """A run whose cats are always wrong, one of them with a score of exactly 1, and whose dogs are always right."""
    boxes = [[60 * i, 0, 60 * i + 40, 40] for i in range(8)]
    found = Detections.of([*boxes, [0, 100, 40, 140]], [0.9] * 8 + [1.0], [8] * 8 + [3])
    run = write_run(folder / "run", {(0, 0): [row(index, found) for index in range(10)]})
    truth = {
        "images": [{"id": i + 1, "file_name": f"part-0.tar/{i}.jpg", "width": 640, "height": 480} for i in range(10)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}],
        "annotations": [
            {"id": 10 * i + n, "image_id": i + 1, "category_id": 8, "bbox": [60 * n, 0, 40, 40], "iscrowd": 0}
            for i in range(10)
            for n in range(8)
        ],
    }
    (folder / "gt.json").write_text(json.dumps(truth))
    return run, folder / "gt.json"


def test_a_category_that_is_left_out_keeps_not_even_a_score_of_exactly_1(tmp_path: Path) -> None:
    run, truth = certain_run(tmp_path)
    file, out = tmp_path / "t.yaml", tmp_path / "out.json"
    command = ["calibrate", run.uri, "--annotations", str(truth), "--output", str(file), "--min-judged", "10"]
    assert main([*command, "--target", "precision=0.9"]) == 0
    assert yaml.safe_load(file.read_text())["categories"]["cat"] == "never"
    assert main(["export", run.uri, "--to", "coco", "--thresholds", str(file), "--output", str(out)]) == 0
    assert {note["category_id"] for note in json.loads(out.read_text())["annotations"]} == {8}
    assert "never" in file.read_text().partition("calibration:")[2]


def test_a_file_of_an_earlier_calibrate_leaves_out_what_it_says_1_of(tmp_path: Path) -> None:
    run, _ = certain_run(tmp_path)
    file = tmp_path / "t.yaml"
    file.write_text("default: 0.5\ncategories: {cat: 1.0, dog: 0.3}\ncalibration: {confidence: 0.9}\n")
    assert thresholds_for(run, file).by_category == {3: NEVER, 8: 0.3}
    file.write_text("default: 1\ncategories: {cat: 1.0, dog: never}\n")
    by_hand = thresholds_for(run, file)
    assert (by_hand.default, by_hand.by_category) == (1.0, {3: 1.0, 8: NEVER}), "by hand, 1 is a score"


@pytest.mark.parametrize("text", ["default: never", "default: 1\ncategories: {cat: never}"])
def test_thresholds_that_keep_nothing_are_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    run, truth = certain_run(tmp_path)
    (tmp_path / "t.yaml").write_text(text)
    given = str(tmp_path / "t.yaml")
    assert main(["export", run.uri, "--to", "coco", "--thresholds", given]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "warning: the thresholds keep no box" in line
    assert main(["evaluate", run.uri, "--annotations", str(truth), "--thresholds", given]) == 0
    assert "the thresholds keep no box" in capsys.readouterr().out
    assert main(["compare", run.uri, run.uri, "--thresholds-b", given]) == 0
    assert "B: the thresholds keep no box" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [0.7, 0.8, 0.9])
def test_the_precision_asked_for_is_reached_on_images_it_did_not_see(
    noisy: tuple[Run, dict[str, Any]], tmp_path: Path, asked: float
) -> None:
    run, truth = noisy
    (tmp_path / "seen.json").write_text(json.dumps(only_images(truth, is_seen)))
    file = tmp_path / "thresholds.yaml"
    command = ["calibrate", run.uri, "--annotations", str(tmp_path / "seen.json"), "--output", str(file)]
    assert main([*command, "--target", f"precision={asked}"]) == 0
    unseen = only_images(truth, lambda image_id: not is_seen(image_id))
    score = evaluate_run(run.uri, unseen, thresholds=str(file)).scores[0]
    true, false = score.true_positives[:, 0], score.false_positives[:, 0]
    reached = true / (true + false)
    assert (reached >= asked - 0.02).all(), reached  # 0.02: the unseen half is a sample, too
    assert true.sum() / (true.sum() + false.sum()) >= asked
    # and not by keeping next to nothing: a perfect fit would keep everything from here on
    ideal = {id_: np.mean(np.linspace(0.05, 1, 500) ** power) for id_, power in SHARPNESS.items()}
    assert all(reached[place] < asked + 0.06 for place, id_ in enumerate(SHARPNESS) if ideal[id_] < asked)


def test_a_recall_is_reached_too(noisy: tuple[Run, dict[str, Any]]) -> None:
    run, truth = noisy
    found = calibrate_by_annotations(read_snapshot(run), only_images(truth, is_seen), parse_target("recall=0.5"))
    assert all(c.recall is not None and 0.5 <= c.recall.value < 0.6 and c.recall.low > 0.45 for c in found.choices)


def test_a_rare_category_takes_the_fallback_and_a_hopeless_one_is_left_out(tmp_path: Path) -> None:
    run, truth = noisy_run(tmp_path / "run", {3: 50.0, 8: 0.05}, images=40)  # cats are nearly never right
    dogs = [a for a in truth["annotations"] if a["category_id"] == 8]
    found = calibrate_by_annotations(read_snapshot(run), truth, parse_target("precision=0.9", min_judged=100))
    cat, dog = found.choices
    assert (cat.status, cat.threshold) == ("unreachable", NEVER)
    assert dog.status == "fitted"
    assert len(dogs) > 500
    rare = calibrate_by_annotations(read_snapshot(run), truth, parse_target("precision=0.9", min_judged=dog.judged + 1))
    cat, dog = rare.choices
    assert (cat.status, dog.status) == ("rare", "rare")  # about 800 boxes each: both below the bar
    assert cat.threshold == dog.threshold == rare.fallback.threshold


def test_the_file_holds_for_its_model_and_vocabulary_only(noisy: tuple[Run, dict[str, Any]], tmp_path: Path) -> None:
    run, truth = noisy
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    file = tmp_path / "t.yaml"
    command = ["calibrate", run.uri, "--annotations", str(tmp_path / "gt.json"), "--target", "precision=0.8"]
    assert main([*command, "--output", str(file)]) == 0
    written = yaml.safe_load(file.read_text())
    fields = run.manifest.fingerprint_fields
    assert {k: written["fitted_on"][k] for k in ("model", "prompts", "vocabulary")} == {
        k: fields[k] for k in ("model", "prompts", "vocabulary")
    }
    assert thresholds_for(run, file).by_category.keys() == {3, 8}

    units = {(0, 0): [row(0, Detections.of([[0, 0, 9, 9]], [0.9], [3]))]}
    same = write_run(tmp_path / "same", units)
    assert thresholds_for(same, file).fitted_on["run"] == run.manifest.run_id, (
        "another run of the same model may use it"
    )
    other_model = write_run(tmp_path / "model", units, fields={"model": "m2"})
    with pytest.raises(Refused, match="were fitted on another model than run"):
        thresholds_for(other_model, file)
    other_words = write_run(tmp_path / "words", units, categories=[{"id": 3, "name": "cat"}])
    with pytest.raises(Refused, match="fitted on vocabulary"):
        thresholds_for(other_words, file)
    for verb in (["export", "--to", "coco"], ["evaluate", "--annotations", str(tmp_path / "gt.json"), "--partial"]):
        for elsewhere in (other_model, other_words):
            assert main([verb[0], elsewhere.uri, *verb[1:], "--thresholds", str(file)]) == 2


def test_bad_targets_and_unfinished_runs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("0.9", "precision=2", "f1=0.5", "precision="):
        with pytest.raises(Refused, match="--target is precision"):
            parse_target(text)
    run = write_run(tmp_path / "run", {(0, 0): [row(0)]}, unfinished=[0])
    assert main(["calibrate", run.uri, "--annotations", "gt.json", "--target", "precision=0.9"]) == 2
    assert "is incomplete (1 of 1 shards unfinished)" in capsys.readouterr().err


def test_intervals_are_wilsons() -> None:
    low, high = wilson([0.0, 0.9, 1.0], [10, 100, 20], two_sided())
    assert low == pytest.approx([0, 0.8256, 0.8389], abs=1e-4)  # by the closed formula, worked out by hand
    assert high == pytest.approx([0.2775, 0.9448, 1.0], abs=1e-4)
    assert np.isnan(wilson(0.5, 0, 1.0)[0])


def test_a_recall_that_is_not_reached_says_the_best_recall(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, truth = noisy_run(tmp_path / "run", SHARPNESS, images=20)
    for note in truth["annotations"][::2]:
        note["bbox"] = [600.0, 440.0, 39.0, 39.0]  # where nothing is found
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    assert main(["calibrate", run.uri, "--annotations", str(tmp_path / "gt.json"), "--target", "recall=0.9"]) == 0
    assert "best reached: recall 0." in capsys.readouterr().out


def test_with_many_categories_the_worst_and_the_most_judged_have_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Category n has 20 + n boxes; those of every seventh are all wrong."""
    categories = [{"id": n, "name": f"thing {n}"} for n in range(60)]
    ids = np.repeat(np.arange(60), np.arange(60) + 20)
    found = [Detections.of([[0, 0, 9, 9]], [0.9], [int(n)]) for n in ids]
    run = write_run(tmp_path / "run", {(0, 0): [row(i, one) for i, one in enumerate(found)]}, categories=categories)
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
    for i, n in enumerate(ids.tolist(), 1):
        truth["images"].append({"id": i, "file_name": f"part-0.tar/{i - 1}.jpg", "width": 640, "height": 480})
        box = [0, 0, 9, 9] if n % 7 else [300, 300, 9, 9]
        truth["annotations"].append({"id": i, "image_id": i, "category_id": n, "bbox": box, "iscrowd": 0})
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    command = ["calibrate", run.uri, "--annotations", str(tmp_path / "gt.json"), "--target", "precision=0.8"]

    def printed(*options: str) -> tuple[list[int], str]:
        assert main([*command, "--min-judged", "10", *options]) == 0
        lines = capsys.readouterr().out.splitlines()
        rows = [int(line.split()[1]) for line in lines if line.startswith("thing ")]
        return rows, next(line for line in lines if line.startswith("60 categories"))

    rows, total = printed()
    wrong = [n for n in range(60) if n % 7 == 0]
    assert set(wrong) <= set(rows)
    assert set(range(50, 60)) <= set(rows)
    assert rows == sorted(rows)
    assert len(rows) == 20
    assert total == (
        f"60 categories, {len(ids):,} boxes judged: 51 with a threshold of their own, 9 excluded; "
        "40 are not shown (--all shows them, the file has all)"
    )
    assert len(yaml.safe_load((Path(run.uri) / "thresholds.yaml").read_text())["categories"]) == 60
    rows, total = printed("--all")
    assert rows == list(range(60))
    assert "not shown" not in total


def test_a_threshold_file_that_was_edited_is_not_replaced_without_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, truth = certain_run(tmp_path)
    file = Path(run.uri) / "thresholds.yaml"
    command = ["calibrate", run.uri, "--annotations", str(truth), "--min-judged", "10", "--target"]
    assert main([*command, "precision=0.9"]) == 0
    assert ", replaces the" not in capsys.readouterr().out
    assert main([*command, "precision=0.8"]) == 0, "its own file it may replace"
    assert f"replaces the file for precision=0.9 from {truth}" in capsys.readouterr().out
    by_hand = file.read_text().replace("cat: never", "cat: 0.7")
    for text in (by_hand, "default: 0.5\n", "not: [yaml"):
        file.write_text(text)
        assert main([*command, "precision=0.9"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(file) in line
        assert "--force" in line
        assert file.read_text() == text
    assert main([*command, "precision=0.9", "--force"]) == 0
    assert "replaces 10 bytes" in capsys.readouterr().out


def test_an_evaluation_replaces_an_evaluation_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, truth = certain_run(tmp_path)
    command = ["evaluate", run.uri, "--annotations", str(truth)]
    assert main(command) == 0
    assert ", replaces the" not in capsys.readouterr().out
    assert main(command) == 0
    assert f"evaluation.json, replaces the evaluation against {truth} (AP " in capsys.readouterr().out
    before = truth.read_bytes()
    assert main([*command, "--output", str(truth)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not an evaluation by `labeler evaluate`" in line
    assert truth.read_bytes() == before
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    assert main([*command, "--output", str(other), "--force"]) == 0
    assert "replaces 4 bytes" in capsys.readouterr().out


@pytest.mark.parametrize(("to", "suffix"), [("coco", "json"), ("lvis", "json"), ("odvg", "jsonl")])
def test_a_one_file_export_replaces_an_export_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, suffix: str
) -> None:
    run, truth = certain_run(tmp_path)
    command = ["export", run.uri, "--to", to, "--output"]
    assert main([*command, str(tmp_path / f"out.{suffix}")]) == 0
    assert ", replaces the" not in capsys.readouterr().out
    assert main([*command, str(tmp_path / f"out.{suffix}")]) == 0
    assert "replaces: " in capsys.readouterr().out
    mine = truth.rename(tmp_path / f"mine.{suffix}")
    before = mine.read_bytes()
    assert main([*command, str(mine)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"is not an export by `labeler export --to {to}`" in line
    assert mine.read_bytes() == before
