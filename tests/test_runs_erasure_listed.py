"""Images that are on a run's list of removed images and have labels all the same: counted, not exported, removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labeler.cli import main
from labeler.labels.detections import Detections
from labeler.runs import Run, read_snapshot
from labeler.runs.erasure.excluded import Excluded, read_excluded, write_excluded
from labeler.runs.erasure.name_files import read_names
from tests.label_runs import row, write_run

BOX = Detections.of([[1, 1, 100, 100]], [0.9], [3])


def run_of(folder: Path) -> Run:
    return write_run(folder, {(0, unit): [row(4 * unit + i, BOX) for i in range(4)] for unit in range(2)})


def statuses(run: Run) -> list[str]:
    return [status for table in read_snapshot(run).tables() for status in table["status"].to_pylist()]


def exported(run: Run, target: Path) -> list[str]:
    assert main(["export", run.uri, "--to", "coco", "--threshold", "0.1", "--output", str(target)]) == 0
    return [image["file_name"] for image in json.loads(target.read_text())["images"]]


@pytest.mark.parametrize("by", ["name", "digest"])
def test_rows_on_the_list_are_counted_left_out_and_removed(
    tmp_path: Path, by: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path / "run")
    write_excluded(run, Excluded.of(["part-0.tar/5.jpg" if by == "name" else f"{5:032x}"]))
    assert main(["status", run.uri, "--verify"]) == 0
    assert f"1 image to be removed has labels; run: labeler forget {run.uri}" in capsys.readouterr().out
    names = [f"part-0.tar/{i}.jpg" for i in range(8) if i != 5]
    assert exported(run, tmp_path / "before.json") == names
    assert "removed 1" in capsys.readouterr().out
    assert statuses(run) == ["labeled"] * 8
    assert main(["forget", run.uri]) == 0
    assert "removed: 1 image; 1 unit file" in capsys.readouterr().out
    assert statuses(run) == ["labeled"] * 5 + ["removed"] + ["labeled"] * 2
    assert exported(run, tmp_path / "after.json") == names
    capsys.readouterr()
    assert main(["status", run.uri, "--verify"]) == 0
    assert "to be removed" not in capsys.readouterr().out


def test_a_run_without_a_list_has_nothing_to_forget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run")
    assert main(["forget", run.uri]) == 0
    assert "removed: 0 images; 0 unit files" in capsys.readouterr().out
    assert main(["forget", run.uri, "--dry-run"]) == 2


def test_a_dry_run_counts_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    keys = tmp_path / "keys.txt"
    keys.write_text("part-0.tar/1.jpg\nnobody\n")
    assert main(["forget", run.uri, "--keys", str(keys), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said == "would be removed: 1 image\nnot in the run: 1 name:\n  nobody\n"
    keys.write_text("input: s3://bucket/in\noutput: s3://bucket/run\n")
    assert main(["forget", run.uri, "--keys", str(keys), "--dry-run"]) == 2
    assert main(["forget", run.uri, "--keys", str(keys)]) == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "part-0.tar/1.jpg\r\n\npart-0.tar/2.jpg\r\n"),
        ("names", "part-0.tar/1.jpg\npart-0.tar/2.jpg"),
        ("names.yaml", "- part-0.tar/1.jpg\n- part-0.tar/2.jpg\n"),
        ("names.json", '["part-0.tar/1.jpg", "part-0.tar/2.jpg", "part-0.tar/1.jpg"]'),
        ("names.csv", "digest of,file_name\nx,part-0.tar/1.jpg\ny,part-0.tar/2.jpg\n"),
        ("names.tsv", "n\tfile_name\n1\tpart-0.tar/1.jpg\n2\tpart-0.tar/2.jpg\n"),
    ],
)
def test_a_list_of_names_is_read_by_its_extension(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_names(str(tmp_path / name)) == ["part-0.tar/1.jpg", "part-0.tar/2.jpg"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.yaml", "input: in\noutput: out\n", "it is not a list of names"),
        ("names.yml", "- 17\n- a.jpg\n", "'17' in its list is not a text"),
        ("names.yaml", "- 'a\n", "line 2: found unexpected end of stream"),
        ("coco.json", '{"images": []}', "it is not a list of names"),
        ("rows.json", '[{"file_name": "a.jpg"}]', "is not a text"),
        ("none.json", "[]", "names no image"),
        ("rows.csv", "id,name\n1,a.jpg\n", "needs one of the columns file_name, image_key, digest, and it has none"),
        ("both.csv", "file_name,digest\na.jpg,00\n", "has file_name and digest"),
        ("rows.jsonl", '{"file_name": "a.jpg"}\n', "a .jsonl file is not a list of images"),
    ],
)
def test_a_file_that_is_no_list_blocks_no_name(
    tmp_path: Path, name: str, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path / "run")
    (tmp_path / name).write_text(text)
    for options in ([], ["--future"], ["--dry-run"]):
        assert main(["forget", run.uri, "--keys", str(tmp_path / name), *options]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert said in line
        assert name in line
        assert "one image per line" in line
    assert not len(read_excluded(run))
