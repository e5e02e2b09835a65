"""Selection: which boxes, which images, which side of a split; and exports that go on after they stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler import storage
from labeler.cli import main
from labeler.errors import Refused
from labeler.exports import state
from labeler.exports.near_copies import group
from labeler.exports.picks import pick
from labeler.exports.selection import ChosenImage, Selection, suppress
from labeler.exports.splits import key_of, parse_splits
from labeler.exports.sql import Where
from labeler.labels.detections import Detections
from labeler.labels.merge import suppress_across_categories
from labeler.labels.records import Row
from labeler.runs import Run, read_snapshot
from tests.label_runs import row, write_run
from tests.red_boxes import red_run

ROOT = Path(__file__).parent.parent
# cat, a dog over it with a lower score, a thin cat, a large dog
FOUR = Detections.of(
    [[10, 10, 50, 50], [11, 10, 50, 50], [100, 100, 100.5, 160], [200, 100, 400, 300]],
    [0.9, 0.8, 0.7, 0.4],
    [3, 8, 3, 8],
)


def run_of(folder: Path, rows: Sequence[Row], **options: Any) -> Run:
    units = {(0, n): list(rows[start : start + 50]) for n, start in enumerate(range(0, len(rows), 50))}
    return write_run(folder / "run", units, **options)


def export(run: Run, *options: str, to: str = "coco") -> Any:
    target = Path(run.uri).parent / f"{abs(hash(options))}.json"
    assert main(["export", run.uri, "--to", to, "--output", str(target), *options]) == 0
    return json.loads(target.read_text())


def boxes(exported: Any) -> list[tuple[int, float]]:
    return [(a["category_id"], a["score"]) for a in exported["annotations"]]


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
        (["--split", "a=0.5,b=0.5", "--group-by", "film"], "is no column that the run kept"),
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


def test_what_is_held_of_an_image_is_small() -> None:
    """Of 150,000 images; the table of chosen ones would be kilobytes each."""
    count, empty, rng = 150_000, Detections.empty(), np.random.default_rng(0)
    hashes = rng.integers(-(2**63), 2**63, count)

    def chosen() -> Iterator[ChosenImage]:
        for n in range(count):
            image_row = {"digest": f"{n * 7919:032x}", "phash": int(hashes[n]), "film": str(n // 3)}
            yield ChosenImage(n + 1, image_row, "x.jpg", empty, empty)

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


def test_where_treats_null_as_false_and_sees_kept_columns() -> None:
    from labeler.labels.records import rows_to_table

    rows = [row(0, kept={"film": "a"}), row(1, kept={"film": None}), row(2, kept={"film": "b"})]
    assert Where("film < 'b'", ["film"]).rows(rows_to_table(rows, ["film"])).tolist() == [True, False, False]


def test_suppression_is_merges_own() -> None:
    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 9, 300):
        corners = rng.uniform(0, 100, (count, 2))
        crowd = Detections.of(np.concatenate([corners, corners + 40], 1), rng.random(count), rng.choice([3, 8], count))
        got, expected = suppress(crowd, 0.5), suppress_across_categories(crowd, iou_above=0.5)
        assert got.scores.tolist() == expected.scores.tolist()
        assert got.boxes.tolist() == expected.boxes.tolist()


# ---- splits


def split_of_images(run: Run, folder: Path, *options: str) -> dict[str, str]:
    """digest -> split."""
    out = folder / f"out-{len(list(folder.iterdir()))}"
    assert main(["export", run.uri, "--to", "coco", "--output", str(out), *options]) == 0
    found = {}
    ids = {}
    for number, shown in enumerate(_rows(run), 1):
        ids[number] = shown
    for path in out.glob("*.json"):
        if path.name != "export.json":
            for image in json.loads(path.read_text())["images"]:
                found[ids[image["id"]]] = path.stem
    return found


def _rows(run: Run) -> list[str]:

    return [d for t in read_snapshot(run).tables() for d in t["digest"].to_pylist()]


def images(count: int, *, first: int = 0, **values: Any) -> list[Row]:
    rng = np.random.default_rng(7)
    hashes = rng.integers(-(2**63), 2**63, count + first)  # far apart
    return [
        row(i, FOUR, **({"phash": int(hashes[i]), "digest": f"{key_of(str(i)):032x}"} | values))
        for i in range(first, first + count)
    ]


def test_a_split_has_its_shares_and_stays_when_the_run_grows(tmp_path: Path) -> None:
    small, large = images(150), images(450)
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
    before = split_of_images(run_of(tmp_path / "small", small), tmp_path / "small", "--split", "train=0.8,val=0.2")
    after = split_of_images(run_of(tmp_path / "large", large), tmp_path / "large", "--split", "train=0.8,val=0.2")
    assert len(after) == 450
    assert {d: after[d] for d in before} == before
    assert 0.75 < list(after.values()).count("train") / 450 < 0.85
    assert set(after.values()) == {"train", "val"}


def test_copies_and_near_copies_are_on_one_side(tmp_path: Path) -> None:
    rows = []
    for scene in range(60):
        base = int(np.random.default_rng(scene).integers(0, 2**62))
        for copy in range(3):  # each differs from the next in 3 bits, so the ends in 6
            near = base ^ (0b111 << (3 * copy)) if copy else base
            index = len(rows)
            rows.append(row(index, FOUR, phash=near, digest=f"{key_of(str(index)):032x}"))
    run = run_of(tmp_path, rows)
    halves = ("--split", "a=0.5,b=0.5")
    together = split_of_images(run, tmp_path, *halves)
    apart = split_of_images(run, tmp_path, *halves, "--near-copies", "off")
    by_scene = [
        {splits[r.digest or ""] for r in rows[3 * s : 3 * s + 3]} for splits in (together, apart) for s in range(60)
    ]
    assert all(len(sides) == 1 for sides in by_scene[:60])
    assert sum(len(sides) == 2 for sides in by_scene[60:]) > 20, "without it scenes are torn apart"
    assert set(together.values()) == {"a", "b"}


def test_groups_of_a_kept_column_are_on_one_side(tmp_path: Path) -> None:
    rows = [row(i, FOUR, digest=f"{i:032x}", kept={"film": f"film {i // 5}" if i < 80 else None}) for i in range(100)]
    run = run_of(tmp_path, rows, keep=["film"])
    for more in ((), ("--near-copies", "off")):
        found = split_of_images(run, tmp_path, "--split", "a=0.5,b=0.5", "--group-by", "film", *more)
        sides = [{found[r.digest or ""] for r in rows[5 * s : 5 * s + 5]} for s in range(20)]
        assert all(len(side) == 1 for side in sides[:16])
        assert any(len(side) == 2 for side in sides[16:]), "images without a film go by themselves"


def test_near_copies_are_those_that_comparing_all_with_all_finds() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2**63, 40).astype(np.uint64)
    hashes = base[rng.integers(0, 40, 200)]
    for _ in range(3):  # up to three bits flipped, anywhere
        hashes = hashes ^ (np.uint64(1) << rng.integers(0, 64, 200).astype(np.uint64))
    for bits in (0, 1, 3, 7):
        near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= bits
        reach = near.copy()
        for _ in range(12):  # transitive closure by squaring
            reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
        labels = group(hashes, np.ones(200, np.bool_), None, bits=bits)
        assert (reach == (labels[:, None] == labels[None])).all()
    assert group(hashes[:0], np.zeros(0, np.bool_), None, bits=3).tolist() == []


def test_images_whose_hash_is_unknown_are_no_copies_of_each_other() -> None:
    labels = group(np.zeros(3, np.uint64), np.array([True, False, False]), None, bits=3)
    assert len(set(labels.tolist())) == 3


@pytest.mark.parametrize("text", ["", "train", "train=x", "train=0", "train=0.5,val=0.6", "a b=1"])
def test_a_bad_split_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="--split"):
        parse_splits(text)


def test_a_balanced_export_keeps_rare_categories_whole(tmp_path: Path) -> None:
    cat, dog = (Detections.of([[0, 0, 9, 9]], [0.9], [id_]) for id_ in (3, 8))
    both = Detections.concat([cat, Detections.of([[50, 50, 99, 99]], [0.9], [8])])
    rows = [row(i, both if i % 50 == 0 else dog if i % 2 else None, digest=f"{i:032x}") for i in range(200)]
    values = export(run_of(tmp_path, rows), "--images-per-category", "10")
    with_box = {c: {a["image_id"] for a in values["annotations"] if a["category_id"] == c} for c in (3, 8)}
    assert len(with_box[3]) == 4, "all cats there are"
    assert 10 <= len(with_box[8]) <= 14, "ten dogs, and those beside cats"
    empty = {i["id"] for i in values["images"]} - with_box[3] - with_box[8]
    assert len(empty) == 10, "images without objects are balanced, too"
    assert len(export(run_of(tmp_path, rows), "--images-per-category", "1000")["images"]) == 200


# ---- going on after a stop


DIES = """
import os, signal, sys
from labeler import cli, storage

def put_and_die(uri, data):
    put(uri, data)
    if uri.endswith("parts/00001.json"):
        os.kill(os.getpid(), signal.SIGKILL)

put, storage.put = storage.put, put_and_die
cli.main(sys.argv[1:])
"""


def test_an_export_that_was_killed_goes_on_and_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    run = red_run(tmp_path, shards=6)
    command = ["export", run.uri, "--to", "webdataset", "--images-per-shard", "4", "--split", "a=0.5,b=0.5"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.run([sys.executable, "-c", DIES, *command, "--output", str(killed)], cwd=ROOT, check=False)
    assert process.returncode == -signal.SIGKILL
    assert json.loads((killed / ".labeler/export.json").read_text())["complete"] is False
    done = sorted((killed / ".labeler/parts").iterdir())
    times = {path: path.stat().st_mtime_ns for path in killed.glob("*-0000[01].tar")}
    assert len(done) >= 2
    assert main([*command, "--output", str(killed)]) == 0
    assert main([*command, "--output", str(whole)]) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times, "finished parts are not written again"
    names = sorted(str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(killed)) for p in killed.rglob("*") if p.is_file())
    assert all((killed / name).read_bytes() == (whole / name).read_bytes() for name in names)


def test_a_folder_with_another_export_or_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, images(20))
    command = ["export", run.uri, "--to", "parquet", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert main(command) == 0, "asking again is fine"
    assert main([*command, "--threshold", "0.5"]) == 2
    assert "holds an export of something else (another selection)" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("!")
    assert main([*command[:-1], str(tmp_path / "mine")]) == 2
    assert "is not empty (it holds notes.txt)" in capsys.readouterr().err


def test_an_export_that_an_earlier_version_began_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out/parts").mkdir(parents=True)
    (tmp_path / "out/export.json").write_text('{"complete": false, "labeler": "0.1.0", "asked": {"export_version": 2}}')
    (tmp_path / "out/parts/00000.json").write_text("{}")
    run = run_of(tmp_path, images(20))
    assert main(["export", run.uri, "--to", "parquet", "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "an export of an earlier labeler" in line
    assert "another --output" in line


def test_of_two_exports_that_begin_at_once_one_is_refused_unless_they_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have found the folder empty before either writes to it."""
    gate, real = threading.Barrier(2), storage.list_objects

    def together(uri: str, **options: Any) -> Any:
        found = list(real(uri, **options))
        if not uri.endswith("parts"):
            gate.wait(60)
        return iter(found)

    monkeypatch.setattr(storage, "list_objects", together)

    def begin(target: Path, threshold: float) -> str:
        try:
            state.begin(str(target), {"format": "coco", "selection": threshold})
        except Refused as error:
            return str(error)
        return "begun"

    with ThreadPoolExecutor(2) as pool:
        different = sorted(pool.map(begin, [tmp_path / "a"] * 2, [0.1, 0.9]))
        equal = list(pool.map(begin, [tmp_path / "b"] * 2, [0.5, 0.5]))
    assert different[0] == "begun"
    assert "an export of something else (another selection)" in different[1]
    assert equal == ["begun", "begun"]
    kept = json.loads((tmp_path / "a/.labeler/export.json").read_text())["asked"]["selection"]
    assert kept in (0.1, 0.9)


@pytest.mark.parametrize("text", ["{", "[]", '{"asked": 3}', "[" * 100_000])
def test_a_manifest_that_is_none_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "out/.labeler").mkdir(parents=True)
    (tmp_path / "out/.labeler/export.json").write_text(text)
    run = run_of(tmp_path, images(20))
    assert main(["export", run.uri, "--to", "parquet", "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not an export manifest" in line


def test_an_export_to_storage_without_put_if_absent_continues_and_refuses_as_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, images(20))
    command = ["export", run.uri, "--to", "parquet", "--output", "memory://exports/out"]
    assert main(command) == 0
    assert main(command) == 0
    assert main([*command, "--threshold", "0.5"]) == 2
    assert "an export of something else" in capsys.readouterr().err
