"""`labeler import`: exports come back the same, in each format, and the rest is reported."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from labeler.cli import main
from tests.import_parts import (
    NAMES,
    boxes_of,
    coco,
    document,
    export,
    import_,
    import_document,
    rows_of,
    tables,
    tasks,
    yolo,
)
from tests.review_runs import SIZE, write_input
from tests.review_runs import write_run as write_review_run


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    source = write_input(folder / "in", "webdataset", count=14)
    write_review_run(folder / "run", source, detect=boxes_of, categories=NAMES)
    (folder / "names.json").write_text(json.dumps(NAMES))
    return folder


@pytest.mark.parametrize(
    ("to", "name", "read"),
    [("coco", "out.json", coco), ("yolo", "out", yolo), ("label-studio", "out", tasks), ("parquet", "out", tables)],
)
def test_export_import_export_is_the_same(
    original: Path, tmp_path: Path, to: str, name: str, read: Callable[[Path], Any]
) -> None:
    first = export(original / "run", to, tmp_path / name)
    file = first / "tasks-00000.json" if to == "label-studio" else first
    more = () if to in ("coco", "yolo") else ("--vocabulary", str(original / "names.json"))
    run = import_(original, file, to, tmp_path / "run", *more)
    (tmp_path / "again").mkdir()
    assert read(export(run, to, tmp_path / "again" / name)) == read(first)
    assert [row["digest"] for row in rows_of(run)] == [row["digest"] for row in rows_of(original / "run")]
    fields = json.loads((run / "run.json").read_text())["fingerprint_fields"]
    assert fields.get("columns") == (["unscored"] if to == "yolo" else None)
    assert len(fields["imported"]) == 32


def test_results_come_in_with_the_file_that_their_ids_are_of(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = export(original / "run", "coco", tmp_path / "first.json")
    (tmp_path / "results.json").write_text(json.dumps(coco(first)["annotations"]))
    import_(original, tmp_path / "results.json", "coco-results", tmp_path / "run", expect=2)
    assert "give --annotations" in capsys.readouterr().err
    run = import_(original, tmp_path / "results.json", "coco-results", tmp_path / "run", "--annotations", str(first))
    assert coco(export(run, "coco", tmp_path / "again.json")) == coco(first)


def test_an_image_that_is_not_listed_is_not_an_empty_one(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = document(original)
    del values["annotations"][1]
    values["images"].append({"id": 9, "file_name": "nowhere.jpg"})
    run = import_document(original, tmp_path, values, "--vocabulary", str(original / "names.json"))
    assert [row["status"] for row in rows_of(run)] == ["labeled", "empty", "labeled", *["unlisted"] * 11]
    printed = capsys.readouterr().out
    assert "1 images of the file are not in the input: 'nowhere.jpg'" in printed
    assert "11 images of the input are not in the file: status unlisted" in printed
    again = coco(export(run, "coco", tmp_path / "again.json"))
    assert len(again["images"]) == 3, "what the file does not list is not background"
    truth = export(original / "run", "coco", tmp_path / "truth.json")
    command = ["evaluate", str(run), "--annotations", str(truth)]
    assert main(command) == 2
    assert "11 of 14 images of annotations" in capsys.readouterr().err
    assert main([*command, "--partial"]) == 0
    (score,) = json.loads((run / "evaluation.json").read_text())["scores"]
    listed = [note for note in json.loads(truth.read_text())["annotations"] if note["image_id"] <= 3]
    assert sum(category["objects"] for category in score["categories"]) == len(listed)


def test_a_box_without_score_has_none_in_exports_and_passes_every_threshold(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = document(original)
    values["annotations"][0]["score"] = 0.25
    run = import_document(original, tmp_path, values)
    assert "2 boxes have no score" in capsys.readouterr().out
    found = [row["detections"][0] for row in rows_of(run)[:3]]
    assert [(box["score"], box["unscored"]) for box in found] == [(0.25, None), (1.0, 1), (1.0, 1)]
    assert main(["export", str(run), "--to", "coco", "--threshold", "0.99", "--output", str(tmp_path / "x.json")]) == 0
    notes = json.loads((tmp_path / "x.json").read_text())["annotations"]
    assert [note.get("score", "none") for note in notes] == ["none", "none"]
    capsys.readouterr()
    assert main(["evaluate", str(run), "--annotations", str(tmp_path / "labels.json")]) == 0
    assert "boxes without a score: they rank first" in capsys.readouterr().out
    target = ("--annotations", str(tmp_path / "labels.json"), "--target", "precision=0.5")
    assert main(["calibrate", str(run), *target]) == 2
    assert "no threshold can be fitted" in capsys.readouterr().err
    for to in ("odvg", "parquet", "hf", "webdataset", "label-studio", "cvat", "x-anylabeling"):
        export(run, to, tmp_path / to)
    line, *_ = next((tmp_path / "odvg").glob("*.jsonl")).read_text().splitlines()
    assert [one["score"] for one in json.loads(line)["detection"]["instances"]] == [0.25]
    assert [row["score"] for row in pq.read_table(tmp_path / "parquet/boxes").to_pylist()] == [0.25, None, None]


def test_masks_come_in_as_polygons_and_as_runs(original: Path, tmp_path: Path) -> None:
    values = document(original)
    values["annotations"][0]["segmentation"] = [[5, 5, 25, 5, 25, 25, 5, 25]]
    values["annotations"][1]["segmentation"] = {"size": [SIZE[1], SIZE[0]], "counts": [0, 60, SIZE[0] * SIZE[1] - 60]}
    run = import_document(original, tmp_path, values)
    again = coco(export(run, "coco", tmp_path / "again.json"))["annotations"]
    assert [note.get("area") for note in again] == [400, 60, None]
    assert ["segmentation" in note for note in again] == [True, True, False]


def test_boxes_that_leave_their_image_are_cut_or_left_out_and_counted(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = document(original)
    for note, box in zip(values["annotations"], ([-5, 5, 20, 20], [500, 5, 20, 20], [150, 100, 10.01, 20.01]),
                         strict=True):  # fmt: skip
        note["bbox"] = box
    values["annotations"].append({"id": 9, "image_id": 0, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1})
    run = import_document(original, tmp_path, values)
    printed = capsys.readouterr().out
    assert "1 boxes were cut at the border" in printed
    assert "1 boxes outside of their image were excluded" in printed
    assert "1 crowd regions were excluded" in printed
    rows = rows_of(run)
    assert [len(row["detections"]) for row in rows[:3]] == [1, 0, 1]
    assert (rows[0]["detections"][0]["x_min"], rows[0]["detections"][0]["x_max"]) == (0, 15)


def test_the_same_command_again_is_the_same_run_and_other_labels_are_refused(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = import_document(original, tmp_path, document(original))
    before = rows_of(run)
    units = sorted((run / "labels").rglob("*.parquet"))
    units[0].unlink()
    command = ["import", str(tmp_path / "labels.json"), "--images", str(original / "in"), "--from", "coco"]
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(main([*command, "--output", str(run)]))) for _ in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    assert rows_of(run) == before
    capsys.readouterr()
    changed = document(original)
    changed["annotations"].pop()
    import_document(original, tmp_path, changed, expect=2)
    assert "imported: the run has" in capsys.readouterr().err


def test_an_imported_run_is_not_labeled_further(
    original: Path, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = import_document(original, tmp_path, document(original))
    (tmp_path / "mine.yaml").write_text(json.dumps(
        {"input": str(original / "in"), "output": str(run), "vocabulary": ["cat"], "model": {"name": str(checkpoint)}}
    ))  # fmt: skip
    capsys.readouterr()
    for command in (
        ["retry", str(run), "--status", "read_error"],
        ["revise", str(run), "--vocabulary", "coco"],
        ["label", str(tmp_path / "mine.yaml"), "--extend"],
    ):
        assert main(command) == 2
        *_, line = capsys.readouterr().err.splitlines()
        assert "was imported, so no detector gives its rows" in line


def test_an_imported_run_is_fused_with_a_run_of_a_detector(original: Path, tmp_path: Path) -> None:
    first = coco(export(original / "run", "coco", tmp_path / "first.json"))
    (tmp_path / "one").mkdir()
    a = import_document(original, tmp_path / "one", first)
    first["annotations"] = first["annotations"][:-1]
    (tmp_path / "two").mkdir()
    b = import_document(original, tmp_path / "two", first)
    assert main(["fuse", str(a), str(b), "--raw-scores", "--output", str(tmp_path / "fused")]) == 0
    found = [box["agreement"] for row in rows_of(tmp_path / "fused") for box in row["detections"]]
    assert found.count(1) == 1
    assert set(found) == {1, 2}


@pytest.mark.parametrize(
    ("format", "text", "message"),
    [
        ("coco", "[]", "is a list, not an object; give a COCO json; results are read with --from coco-results"),
        ("coco", "{", "is not JSON"),
        ("coco", '{"images": []}', "no images in it"),
        ("coco", "<annotations/>", "is not JSON"),
        ("coco-results", "{}", "is not a list; give a list of results"),
        ("label-studio", "{}", "is not a list; export the project from Label Studio as JSON"),
        ("label-studio", '[{"id": 1, "image": "a.jpg", "label": []}]', "JSON_MIN does not say"),
        (
            "label-studio",
            '[{"data": {"image": "a.jpg"}, "annotations": [1, {"result": [1, {"value": 2}]}]}]',
            "no categories in it",
        ),
        (
            "label-studio",
            '[{"data": {}, "annotations": []}, {"data": {"image": 7}, "predictions": 3}, 4]',
            "3 problems",
        ),
        ("yolo", "names: {a: b, 1: c}", "`names` must be a list of names"),
        ("yolo", "names: 3", "`names` must be a list of names"),
        ("yolo", "names: [a]\ntrain: pictures", "must be a folder with images/ in its path"),
        ("yolo", "names: [a]\ntrain: images/train", "no label file in its folders"),
        ("parquet", "", "has no images/*.parquet"),
    ],
)
def test_a_file_of_another_format_is_refused_in_a_line(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str, text: str, message: str
) -> None:
    file = tmp_path / ("data.yaml" if format == "yolo" else "labels.json")
    file.write_text(text)
    (tmp_path / "truth.json").write_text(json.dumps(document(original)))
    more = ("--annotations", str(tmp_path / "truth.json")) if format == "coco-results" else ()
    import_(original, file, format, tmp_path / "run", *more, expect=2)
    line, *problems = capsys.readouterr().err.splitlines()
    assert message in line
    assert len(problems) == (3 if message == "3 problems" else 0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["annotations"][0].update(bbox=[float("nan"), 0, 1, 1]), "`bbox` must be [x, y, width, height]"),
        (lambda v: v["annotations"][0].update(score=1.5), "`score` must be a number from 0 to 1"),
        (lambda v: v["annotations"][0].update(category_id=4), "category_id 4 matches no category of the file"),
        (lambda v: v["images"][0].update(width=SIZE[1], height=SIZE[0]), "gives 1 images another size"),
        (lambda v: [i.update(file_name=f"other/{i['id']}.jpg") for i in v["images"]], "are for other images"),
        (lambda v: v["annotations"][0].update(segmentation={"size": [2, 2], "counts": [4]}), "a mask of image"),
    ],
)
def test_labels_that_do_not_fit_are_refused_before_anything_is_written(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, message: str
) -> None:
    values = document(original)
    change(values)
    import_document(original, tmp_path, values, expect=2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_categories_that_a_vocabulary_does_not_have_are_listed(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.txt").write_text("dog\nbird\n")
    import_document(original, tmp_path, document(original), "--vocabulary", str(tmp_path / "names.txt"), expect=2)
    line, *problems = capsys.readouterr().err.splitlines()
    assert "has 1 categories that vocabulary" in line
    assert problems == ['  "cat" (3 boxes)']


@pytest.mark.slow
def test_an_imported_run_is_looked_at_compared_and_forgotten_like_any(original: Path, tmp_path: Path) -> None:
    run = import_document(original, tmp_path, document(original), "--vocabulary", str(original / "names.json"))
    assert main(["status", str(run), "--verify"]) == 0
    assert main(["report", str(run)]) == 0
    assert main(["compare", str(run), str(original / "run"), "--output", str(tmp_path / "compare.html")]) == 0
    (tmp_path / "names").write_text("part-0.tar/0000.jpg\n")
    assert main(["forget", str(run), "--keys", str(tmp_path / "names")]) == 0
    assert rows_of(run)[0]["status"] == "removed"
