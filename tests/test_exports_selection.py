"""Selection: which boxes and which images are exported, and options that make no sense."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labeler.cli import main
from labeler.exports.picks import pick
from labeler.exports.selection import ChosenImage, Selection, unsuppressed
from labeler.exports.splits import parse_splits
from labeler.exports.sql import Where
from labeler.labels.detections import Detections
from labeler.labels.merge import suppress_across_categories
from tests.export_parts import FOUR, boxes, export, run_of
from tests.label_runs import row


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], [(3, 0.9), (8, 0.4)]),  # the dog over the cat is suppressed, the thin cat is thinner than a pixel
        (["--suppress", "off"], [(3, 0.9), (8, 0.8), (8, 0.4)]),
        (["--suppress", "off", "--min-side", "0"], [(3, 0.9), (8, 0.8), (3, 0.7), (8, 0.4)]),
        (["--threshold", "0.5"], [(3, 0.9)]),
        (["--score-below", "0.5"], [(8, 0.4)]),
        (["--categories", "dog"], [(8, 0.4)]),  # the suppressed dog does not come back because nobody wants cats
        (["--categories", "cat,8"], [(3, 0.9), (8, 0.4)]),
        (["--area", "1600..1601"], [(3, 0.9)]),
        (["--area", "..1600"], []),
        (["--area", "1601.."], [(8, 0.4)]),
        (["--boxes", "3.."], []),
        (["--where", "width > 10 and len(detections) = 4"], [(3, 0.9), (8, 0.4)]),
        (["--where", "width > 10000"], []),
    ],
)
def test_boxes_are_selected(tmp_path: Path, options: list[str], expected: list[tuple[int, float]]) -> None:
    assert boxes(export(run_of(tmp_path, [row(0, FOUR)]), *options)) == expected


def test_images_without_boxes_stay_unless_they_are_not_wanted(tmp_path: Path) -> None:
    run = run_of(tmp_path, [row(0, FOUR), row(1), row(2, status="decode_error")])
    assert [i["id"] for i in export(run)["images"]] == [1, 2]
    assert [i["id"] for i in export(run, "--boxes", "1..")["images"]] == [1]
    assert [i["id"] for i in export(run, "--boxes", "..0")["images"]] == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--categories", "dgo"], "dgo: no such category in the run; did you mean dog?"),
        (["--categories", "sky"], "sky: no such category"),
        (["--where", "widht > 3"], "widht"),
        (["--where", "true); drop table rows; select (1"], "--where"),
        (["--where", "exists(select * from read_text('/etc/hostname'))"], "--where"),
        (["--split", "train=0.9"], "add up to 1"),
        (["--split", "a=0.5,a=0.5"], "must differ"),
        (["--split", "a=0.5,all=0.5"], "choose another name"),
        (["--group-by", "film"], "give --split"),
        (["--split", "a=0.5,b=0.5", "--group-by", "film"], "--group-by 'film': no such column; use shard_id"),
        (["--where", ""], "--where"),
        (["--where", "cast(image_key as integer) > 3"], "Could not convert"),
        (["--where", "error('x')"], "--where"),
        (["--area", "big"], "--area is MIN..MAX"),
        (["--area", "nan.."], "--area"),
        (["--area", "..inf"], "leave an end out"),
        (["--boxes", "inf.."], "of whole numbers"),
        (["--boxes", "1.7.."], "of whole numbers"),
        (["--min-side", "nan"], "--min-side is a number of pixels"),
        (["--score-below", "nan"], "--score-below is a score"),
        (["--score-below", "-3"], "--score-below is a score"),
        (["--to", "lvis", "--negatives", "-70"], "--negatives must be 0 or more"),
        (["--boxes", "5..2"], "in order"),
        (["--suppress", "2"], "--suppress"),
        (["--near-copies", "30"], "from 0 to 7"),
        (["--near-copies", "²"], "from 0 to 7"),
        (["--near-copies", "3" * 5000], "from 0 to 7"),
        (["--threshold", "7"], "--threshold"),
        (["--images-per-category", "0"], "1 or more"),
        (["--to", "yolo", "--split", "train=0.9,test=0.1"], "YOLO needs a train and a val"),
        (["--to", "hf", "--images-per-shard", "5"], "cut by themselves"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    run = run_of(tmp_path, [row(0, FOUR)])
    assert main(["export", run.uri, "--to", "coco", "--output", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "output", ["", "  ", "/", "s3://", "file:///", "foo://bucket/x.json", "s3:///x.json", "/tmp/\udcff.json"]
)
def test_an_output_that_is_none_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    run = run_of(tmp_path, [row(0, FOUR)])
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", run.uri, "--to", "coco", "--output", output]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--output" in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_what_is_held_of_an_image_is_small() -> None:
    """Of 150,000 images; the table of chosen ones would be kilobytes each."""
    count, empty, rng = 150_000, Detections.empty(), np.random.default_rng(0)
    hashes = rng.integers(-(2**63), 2**63, count)

    def chosen() -> Iterator[ChosenImage]:
        for n in range(count):
            image_row = {"digest": f"{n * 7919:032x}", "phash": int(hashes[n]), "film": str(n // 3)}
            yield ChosenImage(n + 1, image_row, "x.jpg", empty, empty, empty.order())

    split = Selection(splits=parse_splits("train=0.9,val=0.1"), near_copies=3)
    grouped, balanced = replace(split, group_by="film"), Selection(images_per_category=100)
    for selection, most in ((split, 230), (grouped, 260), (balanced, 60)):
        tracemalloc.start()
        pick(chosen(), lambda: count, selection)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak / count < most


def test_an_unfinished_run_is_refused_without_partial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path, [row(0, FOUR)], unfinished=[0])
    assert main(["export", run.uri, "--to", "lvis", "--output", str(tmp_path / "o.json")]) == 2
    assert "is incomplete (1 of 1 shards unfinished)" in capsys.readouterr().err
    assert main(["export", run.uri, "--to", "lvis", "--output", str(tmp_path / "o.json"), "--partial"]) == 0


def test_a_file_is_no_folder_to_export_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, mine = run_of(tmp_path, [row(0, FOUR)]), tmp_path / "mine.yaml"
    mine.write_text("input: in\n")
    assert main(["export", run.uri, "--to", "yolo", "--output", str(mine)]) == 2
    assert capsys.readouterr().err == f"labeler: --output {mine} is a file; give a folder\n"
    assert mine.read_text() == "input: in\n"


def test_where_treats_null_as_false_and_sees_kept_columns() -> None:
    from labeler.labels.records import rows_to_table

    rows = [row(0, kept={"film": "a"}), row(1, kept={"film": None}), row(2, kept={"film": "b"})]
    assert Where("film < 'b'", ["film"]).rows(rows_to_table(rows, ["film"])).tolist() == [True, False, False]


def test_suppression_is_merges_own() -> None:
    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 9, 300):
        corners = rng.uniform(0, 100, (count, 2))
        crowd = Detections.of(np.concatenate([corners, corners + 40], 1), rng.random(count), rng.choice([3, 8], count))
        got, expected = crowd[unsuppressed(crowd, 0.5)], suppress_across_categories(crowd, iou_above=0.5)
        assert got.scores.tolist() == expected.scores.tolist()
        assert got.boxes.tolist() == expected.boxes.tolist()
