"""Labels of other people, in small files: what each format may say, and what is refused in a line."""

from __future__ import annotations

import json
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
from tests.import_parts import (
    import_small,
    rows_of,
    small_input,
    write_coco,
)
from tests.inputs import image_bytes, tar_bytes


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
    assert "1 regions of type 'choices' were excluded" in capsys.readouterr().out
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
    assert "1 boxes with `ignore` were excluded" in printed
    assert "1 boxes outside of their image were excluded" in printed


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
