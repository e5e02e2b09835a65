"""Options, samples, marks and runs that do not fit each other: one line per problem, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labeler.exports.sampled import read_sample
from labeler.labels.detections import Detections
from tests.label_runs import row, write_run
from tests.red_boxes import red_run
from tests.sample_parts import Known, refused, sample


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return Known(tmp_path_factory.mktemp("known"))


OPTIONS = {
    ("--n", "0"): "--n",
    ("--n", "20000"): "--n",
    ("--seed", "-1"): "--seed",
    ("--threshold", "1.5"): "--threshold",
    ("--threshold", "1"): "lower --threshold",
    ("--suppress", "2"): "--suppress",
    ("--band", "0"): "--band",
    ("--strategy", "rare", "--band", "0.2"): "--band",
    ("--strategy", "disagree"): "--against",
    ("--against", "somewhere"): "--against",
    ("--thresholds-against", "x.yaml"): "--thresholds-against",
    ("--strategy", "disagree", "--against", "nowhere"): "nowhere",
    ("--strategy", "margin", "--pilot", "m.json"): "--pilot",
    ("--strategy", "estimate", "--pilot", "missing.json"): "missing.json",
    ("--strategy", "estimate", "--continue", "s.json"): "--continue",
    ("--strategy", "estimate", "--continue", "s.json", "--pilot", "m", "--seed", "1"): "--seed",
    ("--strategy", "estimate", "--continue", "missing.json", "--pilot", "m"): "missing.json",
}  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_options_that_make_no_sense_are_a_line(
    known: Known, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    out = tmp_path / "s.json"
    assert OPTIONS[options] in refused(capsys, "sample", known.run.uri, "--output", str(out), *options)
    assert not out.exists()


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        values = json.loads(data)
        change(values)
        return json.dumps(values).encode()

    return edit


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off": (lambda data: data[:-100], "not valid JSON"),
    "another file": (lambda _: b'{"a": 1}', "not a file that `labeler sample` wrote"),
    "a list": (lambda _: b"[1]", "not a file that `labeler sample` wrote"),
    "of another run": (edited(lambda v: v.update(run="f" * 32)), "is of run ffff"),
    "of a later version": (edited(lambda v: v.update(labeler_sample=2)), "labeler_sample"),
    "an inclusion that was edited": (
        edited(lambda v: v["images"][0]["boxes"][0].update(inclusion=0.9)), "not its stratum's"
    ),
    "a box without a stratum": (edited(lambda v: v["images"][0]["boxes"][0].update(stratum=None)), "was edited"),
    "a stratum that is not there": (edited(lambda v: v["images"][0]["boxes"][0].update(stratum=9)), "was edited"),
    "a box twice": (edited(lambda v: v["images"].append(v["images"][0])), "twice"),
    "a box that is missing": (edited(lambda v: v["images"].pop()), "says otherwise"),
    "an unknown category": (
        edited(lambda v: v["images"][0]["boxes"][0].update(category_id=77)), "category 77, which the run does not have"
    ),
    "an unknown threshold": (
        edited(lambda v: v["population"]["thresholds"].update(cat=0.5)), "no category 'cat' for its threshold"
    ),
    "not a number": (lambda data: data.replace(b'"seed": 0', b'"seed": NaN'), "seed"),
    "text for a number": (edited(lambda v: v["images"][0]["boxes"][0].update(score="high")), "score"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_sample_is_a_line(
    known: Known, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path = tmp_path / "s.json"
    sample(known.run, path, "--strategy", "estimate", "--n", "20")
    marks = known.marks(path)
    change, expected = DAMAGED[damage]
    path.write_bytes(change(path.read_bytes()))
    line = refused(capsys, "evaluate", known.run.uri, "--sample", str(path), "--marks", str(marks))
    assert expected in line
    out = tmp_path / "out"
    line = refused(capsys, "export", known.run.uri, "--to", "cvat", "--sample", str(path), "--output", str(out))
    assert expected in line
    assert not out.exists()


def test_marks_that_are_not_of_the_sample_are_a_line(
    known: Known, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.json"
    sample(known.run, path, "--strategy", "estimate", "--n", "50")
    marks = known.marks(path)
    command = ["evaluate", known.run.uri, "--sample", str(path), "--marks", str(marks)]
    values = json.loads(marks.read_text())
    marks.write_text(json.dumps(values | {"run": "0" * 32}))
    assert "are of run 0000" in refused(capsys, *command)
    marks.write_text(json.dumps(values | {"marks": [values["marks"][0] | {"category_id": 99}]}))
    assert "not about the boxes" in refused(capsys, *command)
    marks.write_text(json.dumps(values | {"marks": values["marks"][:1]}))
    assert "mark more boxes" in refused(capsys, *command)
    marks.write_text("[]")
    assert "marks" in refused(capsys, *command)
    assert "--marks go together" in refused(capsys, *command[:4])
    assert "--annotations, or --sample" in refused(capsys, *command[:2])
    marks.write_text(json.dumps(values))
    assert "--rules is for ground truth" in refused(capsys, *command, "--rules", "coco")
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert "is not a precision" in refused(capsys, *command, "--output", str(other))


def test_a_sample_that_marks_may_need_is_not_replaced(
    known: Known, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.json"
    sample(known.run, path, "--n", "20")
    before = path.read_bytes()
    sample(known.run, path, "--n", "20")
    assert "--force" in refused(capsys, "sample", known.run.uri, "--output", str(path), "--n", "21")
    assert path.read_bytes() == before
    sample(known.run, path, "--n", "21", "--force")
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--to", "coco"), "--sample is for --to"),
        (("--to", "cvat", "--threshold", "0.5"), "omit --threshold"),
        (("--to", "cvat", "--where", "width > 3"), "omit --where"),
        (("--to", "cvat", "--split", "a=0.5,b=0.5"), "omit --split"),
    ],
)
def test_a_sample_says_which_boxes_and_images(
    known: Known, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], expected: str
) -> None:
    path = tmp_path / "s.json"
    sample(known.run, path, "--n", "20")
    assert expected in refused(capsys, "export", known.run.uri, "--sample", str(path), *options)


def test_a_run_that_changed_is_neither_exported_nor_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = Detections.of([[10, 10, 50, 50], [90, 90, 150, 150]], [0.9, 0.5], [3, 8])
    run = write_run(tmp_path / "run", {(0, 0): [row(i, box) for i in range(20)]})
    path, marks = tmp_path / "s.json", tmp_path / "m.json"
    values = sample(run, path, "--strategy", "estimate", "--n", "10")
    one = values["images"][0]
    mark = {key: one["boxes"][0][key] for key in ("box", "category_id", "score")}
    mark |= {"image": f"{one['shard_id']}/{one['index']}", "right": True}
    marks.write_text(json.dumps({"run": run.manifest.run_id, "marks": [mark]}))
    unit = next(Path(run.uri).rglob("labels/*/*.parquet"))
    changed = Detections.of([[10, 10, 50, 50], [90, 90, 150, 160]], [0.8, 0.4], [3, 8])
    other = write_run(tmp_path / "other", {(0, 0): [row(i, changed, image_key="longer name.jpg") for i in range(20)]})
    unit.write_bytes(next(Path(other.uri).rglob("labels/*/*.parquet")).read_bytes())
    line = refused(capsys, "export", run.uri, "--to", "cvat", "--sample", str(path), "--output", str(tmp_path / "o"))
    assert "has other boxes than when" in line
    assert not (tmp_path / "o").exists()
    line = refused(
        capsys, "sample", run.uri, "--strategy", "estimate", "--continue", str(path), "--pilot", str(marks),
        "--output", str(tmp_path / "more.json"), "--n", "12",
    )  # fmt: skip
    assert "the run has other boxes" in line


def test_a_row_that_the_run_does_not_have_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = red_run(tmp_path, images=9)
    path, out = tmp_path / "s.json", tmp_path / "out"
    values = sample(run, path, "--strategy", "random", "--threshold", "0.4")
    first, *rest = values["images"]
    for images, rows in ([first | {"index": 4000}, *rest], 17), ([image | {"unit": 7} for image in (first, *rest)], 0):
        path.write_text(json.dumps(values | {"images": images}))
        line = refused(capsys, "export", run.uri, "--to", "cvat", "--sample", str(path), "--output", str(out))
        assert f"the run only {rows} of their rows" in line
        assert not out.exists()


def test_an_incomplete_run_is_sampled_as_far_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = Detections.of([[10, 10, 50, 50]], [0.9], [3])
    run = write_run(tmp_path / "run", {(0, 0): [row(i, box) for i in range(5)]}, unfinished=[0])
    assert "--partial" in refused(capsys, "sample", run.uri)
    assert sample(run, tmp_path / "s.json", "--partial", "--strategy", "random")["population"]["boxes"] == 5
    assert read_sample(str(tmp_path / "s.json"), run).population.images == 5
