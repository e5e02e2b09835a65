"""Corrected runs: killed and repeated, made twice at once, corrected again, forgotten from, carried over, trained."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.cli import main
from labeler.corrections.corrections import COLUMNS, Options, read_corrections
from labeler.labels.detections import Detections
from labeler.labels.records import Row
from labeler.pipeline.correct import correct as correct_run
from labeler.runs import Run, open_run, read_snapshot, require_run
from labeler.runs.report import build_report
from labeler.training.config import DataConfig
from labeler.training.run_labels import read_run
from tests.correction_parts import BOXES, NAMES, correct, export, made_run, reviewed_tasks, rows, sources
from tests.label_runs import write_run
from tests.red_boxes import red_run


def unit_files(run: Run) -> dict[str, bytes]:
    return {str(path.relative_to(run.uri)): path.read_bytes() for path in sorted(Path(run.uri).rglob("0*.parquet"))}


def columns_of(found: Sequence[Row]) -> list[Any]:
    return [
        (row.index, row.status, row.review, row.detections.boxes.tolist(), list(row.detections.more["source"]))
        for row in found
    ]


def test_a_corrected_run_that_was_killed_is_finished_by_the_same_command(tmp_path: Path) -> None:
    run = red_run(tmp_path)
    before = unit_files(run)
    arguments = (str(reviewed_tasks(export(run, "label-studio"), only=range(0, 18, 2))), "--from", "label-studio")
    corrected = correct(run, *arguments)
    whole, counts = columns_of(rows(corrected)), (Path(corrected.uri) / "corrections.json").read_bytes()
    written = sorted(Path(corrected.uri).rglob("labels/*/*.parquet"))
    assert len(written) == 6
    proof = build_report(read_snapshot(corrected), receipts=False)
    files = {path: path.read_bytes() for path in written}
    for path, data in files.items():
        path.write_bytes(b"\0" * len(data))
    assert build_report(read_snapshot(corrected)) == proof, "from receipts: no unit file can be read"
    for path, data in files.items():
        path.write_bytes(data)
    kept = {path: path.stat().st_mtime_ns for path in written[::2]}
    for path in (*written[1::2], Path(corrected.uri) / "corrections.json", Path(corrected.uri) / "report.json"):
        path.unlink()  # as if it had been killed in between
    assert main(["status", corrected.uri]) == 1
    again = correct(run, *arguments)
    assert again.manifest.run_id == corrected.manifest.run_id
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert columns_of(rows(again)) == whole
    assert (Path(corrected.uri) / "corrections.json").read_bytes() == counts
    assert main(["status", corrected.uri, "--verify"]) == 0
    assert unit_files(run) == before, "the run itself stays as it is"


def test_two_that_correct_at_once_make_one_run(tmp_path: Path) -> None:
    run = red_run(tmp_path)
    path = reviewed_tasks(export(run, "label-studio"))
    corrections = read_corrections(read_snapshot(run), [str(path)], Options("label-studio"))
    both = threading.Barrier(2)

    def once(_: int) -> str:
        both.wait()
        return correct_run(run, corrections, str(tmp_path / "corrected"), about={}).run.manifest.run_id

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(once, range(2))
    assert first == second
    found = rows(require_run(str(tmp_path / "corrected")))
    assert [row.review for row in found] == ["complete"] * 18


def test_another_file_or_option_is_refused_and_corrects_the_corrected_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_run(tmp_path)
    out = export(run, "label-studio")
    corrected = correct(run, str(reviewed_tasks(out, only=[0])), "--from", "label-studio")
    assert set(corrected.columns) == set(COLUMNS)
    other = reviewed_tasks(out, only=[1])
    capsys.readouterr()
    correct(run, str(other), "--from", "label-studio", code=2)
    assert "correction: the run has" in capsys.readouterr().err
    # A file of the first run is not about the boxes of the second.
    twice = ["correct", corrected.uri, str(other), "--from", "label-studio", "--output", str(tmp_path / "twice")]
    assert main(twice) == 2
    assert f"corrections {other} are of run {run.manifest.run_id}" in capsys.readouterr().err

    (tmp_path / "second").mkdir()
    again = tmp_path / "second/out"
    everything = ["--suppress", "off", "--min-side", "0"]
    assert main(["export", corrected.uri, "--to", "label-studio", "--output", str(again), *everything]) == 0

    def change(number: int, annotation: dict[str, Any]) -> None:
        for region in annotation["result"] if number == 0 else []:
            region["value"]["rectanglelabels"] = ["dog"]

    back = reviewed_tasks(again, change, only=[0, 1])
    assert main([*twice[:2], str(back), *twice[3:]]) == 0
    found = sources(require_run(str(tmp_path / "twice")))
    assert found == [
        ("complete", ["renamed", "accepted", "renamed"]),
        ("complete", ["accepted", "accepted"]),
        (None, []),
        (None, [None]),
    ]
    scores = [list(row.detections.more["model_score"]) for row in rows(require_run(str(tmp_path / "twice")))]
    assert scores[0] == BOXES[0].scores.tolist(), "the model's score, not that of the first review"


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path)
    path = reviewed_tasks(export(run, "label-studio"))
    capsys.readouterr()
    assert main(["correct", run.uri, str(path), "--from", "label-studio", "--dry-run"]) == 0
    assert "6 accepted, 0 moved, 0 renamed, 0 both, 0 added, 0 removed" in capsys.readouterr().out
    assert not (tmp_path / "run-corrected").exists()


def test_what_was_forgotten_meanwhile_stays_forgotten(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    path = reviewed_tasks(export(run, "label-studio"))
    keys = tmp_path / "keys.txt"
    corrected = correct(run, str(path), "--from", "label-studio")
    keys.write_text("000.png\n")
    assert main(["forget", run.uri, "--keys", str(keys)]) == 0
    assert [row.status for row in rows(require_run(corrected.uri))] == ["removed", "labeled", "empty", "labeled"]
    shutil.rmtree(corrected.uri)
    found = rows(correct(run, str(path), "--from", "label-studio"))
    assert [row.status for row in found] == ["removed", "labeled", "empty", "labeled"]
    assert [len(row.detections) for row in found] == [0, 2, 0, 1]


# ---- carried over to a newer model's run


def newer_run(run: Run, folder: Path, found: Sequence[Detections], names: Sequence[str] = NAMES) -> Run:
    """A run over the same images by another model, with its categories numbered from 11."""
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 11)]
    made = [
        replace(row, detections=boxes, status="labeled" if len(boxes) else "empty")
        for row, boxes in zip(rows(run), found, strict=True)
    ]
    return write_run(folder, {(0, 0): made}, categories=categories, fields={"model": "m2"})


def reviewed_run(folder: Path) -> Run:
    run = made_run(folder)

    def change(number: int, annotation: dict[str, Any]) -> None:
        if number == 0:
            annotation["result"][0]["value"]["x"] += 5
            annotation["result"] = annotation["result"][:2]

    return correct(run, str(reviewed_tasks(export(run, "label-studio"), change, only=[0, 2])), "--from", "label-studio")


def test_reviews_come_to_the_run_of_a_newer_model_by_digest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corrected = reviewed_run(tmp_path)
    near, wrong = corrected_boxes(corrected)[0], [80, 1, 90, 9]
    found = [
        Detections.of([near + 1, wrong], [0.77, 0.4], [11, 12]),
        Detections.of([wrong], [0.5], [14]),
        Detections.of([wrong], [0.6], [13]),
        Detections.empty(),
    ]
    newer = newer_run(require_run(str(tmp_path / "run")), tmp_path / "newer", found)
    capsys.readouterr()
    output = ["--output", str(tmp_path / "carried")]
    assert main(["correct", newer.uri, "--from-run", corrected.uri, *output]) == 0
    printed = capsys.readouterr().out
    assert "2 reviewed, 0 with single boxes reviewed, 2 not reviewed" in printed
    assert "0 accepted, 1 moved" in printed
    assert "1 added, 2 removed" in printed
    first, second, third, _ = rows(require_run(str(tmp_path / "carried")))
    assert first.detections.boxes.tolist() == rows(corrected)[0].detections.boxes.tolist()
    assert first.detections.category_ids.tolist() == [11, 12]
    assert list(first.detections.more["source"]) == ["moved", "accepted"]
    assert np.array_equal(first.detections.more["model_score"], np.float32([0.77, np.nan]), equal_nan=True)
    assert (second.review, len(second.detections)) == (None, 1)
    assert (third.review, third.status, len(third.detections)) == ("complete", "empty", 0)
    assert main(["evaluate", newer.uri, "--annotations", str(tmp_path / "carried")]) == 0


def corrected_boxes(run: Run) -> Any:
    return rows(run)[0].detections.boxes


def test_a_category_that_nobody_looked_for_makes_a_review_one_of_single_boxes(tmp_path: Path) -> None:
    corrected = reviewed_run(tmp_path)
    other = Detections.of([[80, 1, 90, 9]], [0.4], [15])
    found = [other, other, other, Detections.empty()]
    newer = newer_run(require_run(str(tmp_path / "run")), tmp_path / "newer", found, [*NAMES, "bird"])
    assert main(["correct", newer.uri, "--from-run", corrected.uri, "--output", str(tmp_path / "carried")]) == 0
    assert sources(require_run(str(tmp_path / "carried"))) == [
        ("boxes", ["moved", "accepted", None]), (None, [None]), ("boxes", [None]), (None, [])
    ]  # fmt: skip


def test_reviews_that_do_not_fit_a_run_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corrected = reviewed_run(tmp_path)
    run = require_run(str(tmp_path / "run"))
    fewer = newer_run(run, tmp_path / "fewer", [Detections.empty()] * 4, ["cat"])
    made = [replace(row, digest=f"{row.index:032x}", detections=Detections.empty()) for row in rows(run)]
    others = write_run(tmp_path / "others", {(0, 0): made}, categories=[{"id": 1, "name": name} for name in NAMES[:1]])
    for newer, reviewed, says in (
        (fewer, corrected, "lacks 1 categories of reviewed boxes (dog)"),
        (others, corrected, "lacks"),
        (run, fewer, "has no reviewed image"),
    ):
        capsys.readouterr()
        assert main(["correct", newer.uri, "--from-run", reviewed.uri, "--output", str(tmp_path / "carried")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line
    assert open_run(str(tmp_path / "carried")) is None


# ---- trained


def test_training_repeats_completely_reviewed_images(tmp_path: Path) -> None:
    corrected = reviewed_run(tmp_path)
    once, _ = read_run(corrected.uri, score_threshold=0.3)
    many, _ = read_run(corrected.uri, score_threshold=0.3, reviewed_weight=3)
    assert [record.name for record in once] == ["000.png", "001.png", "002.png", "003.png"]
    assert [record.name for record in many] == ["000.png"] * 3 + ["001.png"] + ["002.png"] * 3 + ["003.png"]
    assert json.loads((Path(corrected.uri) / "run.json").read_text())["schema_version"] == 3


def test_a_training_without_the_weight_is_written_as_before() -> None:
    """So a training of an earlier version can resume."""
    assert "reviewed_weight" not in DataConfig(run="labels").model_dump(mode="json")
    assert DataConfig(run="labels", reviewed_weight=5).model_dump(mode="json")["reviewed_weight"] == 5
