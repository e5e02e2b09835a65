"""`labeler import`: what goes out comes back the same, in each format, and what cannot come in is said."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import labeler
from labeler.cli import main
from labeler.digests import digest_of
from labeler.labels.detections import Detections
from labeler.runs import open_run, read_snapshot
from tests.inputs import image_bytes, tar_bytes
from tests.review_runs import CATEGORIES, SIZE, write_input
from tests.review_runs import write_run as write_review_run

NAMES = [dict(category) for category in CATEGORIES if category["name"] in ("cat", "dog", "unicorn")]


def boxes_of(rng: np.random.Generator, item: Any) -> Detections:
    """0 to 6 boxes anywhere, with all the digits that a detector gives them."""
    count = int(rng.integers(0, 7))
    corners = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 60, (count, 2))], 1)
    return Detections.of(boxes, rng.uniform(0.05, 1, count), rng.choice([3, 8], count)).sorted()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    source = write_input(folder / "in", "webdataset", count=14)
    write_review_run(folder / "run", source, detect=boxes_of, categories=NAMES)
    (folder / "names.json").write_text(json.dumps(NAMES))
    return folder


def export(run: Path, to: str, output: Path) -> Path:
    assert main(["export", str(run), "--to", to, "--threshold", "0", "--output", str(output)]) == 0
    return output


def import_(original: Path, file: Path, format: str, output: Path, *more: str, expect: int = 0) -> Path:
    command = ["import", str(file), "--images", str(original / "in"), "--from", format, "--output", str(output), *more]
    assert main(command) == expect
    return output


def rows_of(run: Path) -> list[dict[str, Any]]:
    opened = open_run(str(run))
    assert opened is not None
    rows: list[dict[str, Any]] = pa.concat_tables(list(read_snapshot(opened).tables())).to_pylist()
    return rows


def coco(file: Path) -> Any:
    """Without what says which run it is of, and areas, which are of sides with all their digits."""
    found = {key: value for key, value in json.loads(file.read_text()).items() if key != "info"}
    for note in found["annotations"]:
        if "segmentation" not in note:
            assert note.pop("area") == pytest.approx(note["bbox"][2] * note["bbox"][3], abs=1)
    return found


def yolo(folder: Path) -> Any:
    """A file's lines are a set: by score, where there are scores."""
    found = {str(p.relative_to(folder)): sorted(p.read_text().splitlines()) for p in (folder / "labels").rglob("*.txt")}
    return found | {"data.yaml": [(folder / "data.yaml").read_text()]}


def tasks(folder: Path) -> Any:
    found = json.loads((folder / "tasks-00000.json").read_text())
    for task in found:
        task["data"].pop("labeler_run")
        for prediction in task["predictions"]:
            prediction.pop("model_version")
    return found


def tables(folder: Path) -> Any:
    both = [pq.read_table(next((folder / name).glob("*.parquet"))).to_pylist() for name in ("images", "boxes")]
    return [
        {k: v for k, v in row.items() if k not in ("run_id", "model_digest", "phash")}
        for table in both
        for row in table
    ]


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


def document(original: Path, **changes: Any) -> dict[str, Any]:
    """A small COCO file about three images of the input, with a box each; members may be replaced."""
    keys = [f"part-0.tar/{row['image_key']}" for row in rows_of(original / "run")[:3]]
    width, height = SIZE
    values: dict[str, Any] = {
        "images": [{"id": i, "file_name": k, "width": width, "height": height} for i, k in enumerate(keys)],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 3, "bbox": [5, 5, 20, 20]} for i in range(3)],
    }
    return values | changes


def import_document(original: Path, folder: Path, values: Any, *more: str, expect: int = 0) -> Path:
    (folder / "labels.json").write_text(json.dumps(values))
    return import_(original, folder / "labels.json", "coco", folder / "run", *more, expect=expect)


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
    assert "1 boxes outside of their image were left out" in printed
    assert "1 crowd regions were left out" in printed
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
        (lambda v: v["annotations"][0].update(category_id=4), "category_id 4 is no category of the file"),
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


def test_a_yolo_data_set_of_other_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("images/train", "labels/train"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    for number in range(4):
        (tmp_path / f"in/images/train/{number}.png").write_bytes(image_bytes(number, width=100, height=50))
    (tmp_path / "in/labels/train/0.txt").write_text("1 0.5 0.5 0.2 0.4\n0 0.1 0.1 0.1 0.1 0.875\n")
    (tmp_path / "in/labels/train/1.txt").write_text("")
    (tmp_path / "in/labels/train/other.txt").write_text("")
    (tmp_path / "in/data.yaml").write_text("path: .\ntrain: images/train\nval: []\nnames: [cat, dog]\n")
    command = ["import", str(tmp_path / "in/data.yaml"), "--images", str(tmp_path / "in/images"), "--from", "yolo"]
    assert main([*command, "--output", str(tmp_path / "run")]) == 0
    rows = rows_of(tmp_path / "run")
    assert [row["status"] for row in rows] == ["labeled", "empty", "unlisted", "unlisted"]
    found = [[box["category_id"], box["score"], box["unscored"], box["x_min"]] for box in rows[0]["detections"]]
    assert found == [[1, 1, 1, 40], [0, 0.875, None, 5]]
    assert "1 images of the file are not in the input: 'train/other'" in capsys.readouterr().out
    (tmp_path / "in/labels/train/0.txt").write_text("2 0.5 0.5 0.2 0.4\n")
    assert main([*command, "--output", str(tmp_path / "run2")]) == 2
    assert "labels/train/0.txt, line 1: expected a class below 2" in capsys.readouterr().err


def test_annotations_of_people_go_before_predictions_and_skipped_tasks_say_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.tar").write_bytes(tar_bytes({f"{n}.png": image_bytes(n, width=100, height=50) for n in range(4)}))

    def region(left: float, **more: Any) -> dict[str, Any]:
        value = {"x": left, "y": 10, "width": 20, "height": 20, "rectanglelabels": ["cat"]}
        return {"type": "rectanglelabels", "value": value, **more}

    people = [
        {"annotations": [{"result": [region(40)]}], "predictions": [{"result": [region(0, score=0.5)]}]},
        {"annotations": [{"result": [], "was_cancelled": False}]},
        {"annotations": [{"result": [region(0)], "was_cancelled": True}], "predictions": [{"result": [region(0)]}]},
        {"annotations": [], "predictions": [{"result": [region(0, score=0.5), {"type": "choices", "value": {}}]}]},
    ]
    note = {"caption": "A cat. On a mat.", "page": "https://host/page.html"}
    listed = [
        {"data": {**note, "picture" if n else "image": f"/data/upload/3/0123abcd-{n}.png"}, **one}
        for n, one in enumerate(people)
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(listed))
    command = ["import", str(tmp_path / "tasks.json"), "--images", str(tmp_path / "in"), "--from", "label-studio"]
    assert main(command) == 0
    rows = rows_of(tmp_path / "tasks-run")
    assert [row["status"] for row in rows] == ["labeled", "empty", "unlisted", "labeled"]
    assert rows[0]["detections"][0]["x_min"] == 40
    assert [box["score"] for box in rows[3]["detections"]] == [0.5]
    assert "1 regions of type 'choices' were left out" in capsys.readouterr().out
    listed[0]["annotations"] = [{"result": []}, {"result": []}]
    (tmp_path / "tasks.json").write_text(json.dumps(listed))
    assert main([*command, "--output", str(tmp_path / "run2")]) == 2
    assert "2 people have annotated '0.png'" in capsys.readouterr().err


def test_crops_are_put_together_or_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(image_bytes(0, width=400, height=300, format="JPEG"))
    notes = [
        {"id": n, "image_id": 0, "category_id": 1, "bbox": [20.0 * (n % 18), 25.0 * (n // 18), 12, 12], "score": 0.5}
        for n in range(60)
    ]
    values = {"images": [{"id": 0, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "coco.json").write_text(json.dumps({**values, "annotations": notes}))
    base = ["--images", str(tmp_path / "in"), "--from"]
    assert main(["import", str(tmp_path / "coco.json"), *base, "coco", "--output", str(tmp_path / "run")]) == 0
    assert main(["export", str(tmp_path / "run"), "--to", "label-studio", "--threshold", "0", "--boxes-per-task", "25",
                 "--output", str(tmp_path / "out")]) == 0  # fmt: skip
    file = tmp_path / "out/tasks-00000.json"
    again = ["import", str(file), *base, "label-studio", "--output"]
    assert main([*again, str(tmp_path / "merged")]) == 0
    (one,) = rows_of(tmp_path / "merged")
    (before,) = rows_of(tmp_path / "run")

    def corners(row: dict[str, Any]) -> list[list[float]]:
        return sorted([box[side] for side in ("y_min", "x_min", "y_max", "x_max")] for box in row["detections"])

    np.testing.assert_allclose(corners(one), corners(before), atol=0.01)
    tasks = json.loads(file.read_text())
    assert len(tasks) > 1
    file.write_text(json.dumps(tasks[1:]))
    capsys.readouterr()
    assert main([*again, str(tmp_path / "part")]) == 2
    assert f"was cut into {len(tasks)} crops, and 1 of them" in capsys.readouterr().err
    assert not (tmp_path / "part").exists()


def small_input(folder: Path, *names: str, seed: int | None = None) -> None:
    for number, name in enumerate(names):
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(number if seed is None else seed, width=160, height=120, format="JPEG"))


def import_small(folder: Path, file: Path, format: str, *more: str, expect: int = 0) -> list[dict[str, Any]]:
    output = folder / "run"
    command = ["import", str(file), "--images", str(folder / "in"), "--from", format, "--output", str(output), *more]
    assert main(command) == expect
    assert expect == 0 or not output.exists()
    return rows_of(output) if expect == 0 else []


def write_coco(folder: Path, image: dict[str, Any], *notes: dict[str, Any], categories: bool = True) -> Path:
    file = folder / "coco.json"
    about = {"image_id": 0, "category_id": 1}
    listed = [{"id": 1, "name": "cat"}] if categories else []
    values = {"images": [{"id": 0, **image}], "categories": listed, "annotations": [{**about, **n} for n in notes]}
    file.write_text(json.dumps(values))
    return file


def test_boxes_to_ignore_and_flat_boxes_outside_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_input(tmp_path, "a.jpg")
    sides = [[500.0, 0, 0, 10], [-0.015, 0, 160.03, 120], [0, 0, 0, 10]]
    ignored = {"bbox": [10, 10, 10, 10], "ignore": 1}
    file = write_coco(tmp_path, {"file_name": "a.jpg"}, ignored, *({"bbox": box} for box in sides))
    (one,) = import_small(tmp_path, file, "coco")
    found = [[box[side] for side in ("x_min", "y_min", "x_max", "y_max")] for box in one["detections"]]
    assert found == [[0, 0, 160, 120], [0, 0, 0, 10]]
    printed = capsys.readouterr().out
    assert "1 boxes with `ignore` were left out" in printed
    assert "1 boxes outside of their image were left out" in printed


def test_an_equal_name_goes_before_a_twin_with_equal_bytes(tmp_path: Path) -> None:
    small_input(tmp_path, "a.jpg", "b.jpg", seed=0)
    digest = digest_of((tmp_path / "in/a.jpg").read_bytes())
    file = write_coco(tmp_path, {"file_name": "b.jpg", "digest": digest}, {"bbox": [1, 2, 30, 40]})
    assert [row["status"] for row in import_small(tmp_path, file, "coco")] == ["unlisted", "labeled"]


def test_a_file_without_any_box_needs_a_vocabulary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_input(tmp_path, "a.jpg")
    file = write_coco(tmp_path, {"file_name": "a.jpg"}, categories=False)
    import_small(tmp_path, file, "coco", expect=2)
    assert "no categories in it; give --vocabulary" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("cat\n")
    assert [row["status"] for row in import_small(tmp_path, file, "coco", "--vocabulary", str(tmp_path / "names.txt"))]


@pytest.mark.parametrize("beside", [False, True])
def test_a_yolo_split_may_begin_with_a_parent_folder(tmp_path: Path, *, beside: bool) -> None:
    small_input(tmp_path, "train/images/a.jpg")
    (tmp_path / "in/train/labels").mkdir()
    (tmp_path / "in/train/labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    data = tmp_path / ("in/yaml/data.yaml" if beside else "in/data.yaml")
    data.parent.mkdir(exist_ok=True)
    data.write_text("train: ../train/images\nnc: 1\nnames: ['cat']\n")
    assert [row["status"] for row in import_small(tmp_path, data, "yolo")] == ["labeled"]


def test_rotated_images_without_a_size_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_input(tmp_path, "a.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(tmp_path / "in/a.jpg") as image:
        image.save(tmp_path / "in/a.jpg", exif=exif)
    import_small(tmp_path, write_coco(tmp_path, {"file_name": "a.jpg"}, {"bbox": [1, 2, 30, 40]}), "coco")
    assert "1 EXIF-rotated images have no size in the file" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes",
    [{"category_id": [None, 1]}, {"x_min": ["a", "b"]}, {"mask": [{"a": 1}, None]}, {"mask": ["x", None]}],
)
def test_tables_with_values_of_other_kinds_are_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    small_input(tmp_path, "a.jpg")
    sides = {"x_min": [0.0, 1], "y_min": [0.0, 1], "x_max": [10.0, 20], "y_max": [10.0, 20]}
    boxes = {"image_id": [0, 0], "category_id": [1, 1], "category": ["x", "x"], **sides, **changes}
    for name, columns in {"images": {"image_id": [0], "file_name": ["a.jpg"]}, "boxes": boxes}.items():
        (tmp_path / "t" / name).mkdir(parents=True)
        pq.write_table(pa.table(columns), tmp_path / "t" / name / "0.parquet")
    import_small(tmp_path, tmp_path / "t", "parquet", expect=2)
    assert "Traceback" not in capsys.readouterr().err


def test_a_box_without_a_score_has_none_in_python(tmp_path: Path) -> None:
    small_input(tmp_path, "a.jpg")
    notes = [{"bbox": [1, 2, 30, 40]}, {"bbox": [9, 9, 30, 40], "score": 0.5}]
    import_small(tmp_path, write_coco(tmp_path, {"file_name": "a.jpg"}, *notes), "coco")
    run = labeler.open_run(tmp_path / "run")
    assert run.boxes()["score"].to_pylist() == [None, 0.5]
    np.testing.assert_array_equal(run.to_torch()[0][1]["scores"].numpy(), [np.nan, 0.5])


def test_boxes_without_a_score_are_not_sampled_by_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_input(tmp_path, "a.jpg")
    notes = [{"bbox": [1, 2, 30, 40]}, {"bbox": [9, 9, 30, 40], "score": 0.5}]
    import_small(tmp_path, write_coco(tmp_path, {"file_name": "a.jpg"}, *notes), "coco")
    command = ["sample", str(tmp_path / "run"), "--for", "review", "--n", "2", "--strategy"]
    for strategy in ("estimate", "margin", "mixed"):
        assert main([*command, strategy]) == 2
        assert f"--strategy {strategy} goes by scores" in capsys.readouterr().err
    assert main([*command, "random"]) == 0


@pytest.mark.slow
def test_an_imported_run_is_looked_at_compared_and_forgotten_like_any(original: Path, tmp_path: Path) -> None:
    run = import_document(original, tmp_path, document(original), "--vocabulary", str(original / "names.json"))
    assert main(["status", str(run), "--verify"]) == 0
    assert main(["report", str(run)]) == 0
    assert main(["compare", str(run), str(original / "run"), "--output", str(tmp_path / "compare.html")]) == 0
    (tmp_path / "names").write_text("part-0.tar/0000.jpg\n")
    assert main(["forget", str(run), "--keys", str(tmp_path / "names")]) == 0
    assert rows_of(run)[0]["status"] == "removed"
