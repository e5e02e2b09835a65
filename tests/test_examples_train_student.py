"""A student of labeler's labels: classes and boxes as the models take them, and the whole chain from teacher to AP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import student_shapes
from benchmarks.without_ray import label_here
from examples.train_student.train import Scenes, collate
from labeler.config import make_config
from tests.closed_sets import make_checkpoint

PLAIN = {"size": {"height": 20, "width": 30}, "do_normalize": False}
TRAIN = [sys.executable, str(student_shapes.SCRIPT)]


def write_split(folder: Path, values: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[:, :60] = 255  # the left half is white
    for image in values["images"]:
        Image.fromarray(pixels).save(folder / image["file_name"])
    (folder / "_annotations.coco.json").write_text(json.dumps(values))
    return folder


def two_images() -> dict[str, Any]:
    """Categories whose ids are no class numbers and not in order; a crowd; an image without objects."""
    images = [{"id": 5, "file_name": "a.png", "width": 120, "height": 60}]
    images.append({"id": 9, "file_name": "b.png", "width": 120, "height": 60})
    boxes = [
        {"id": 1, "image_id": 5, "category_id": 30, "bbox": [0, 0, 60, 30], "iscrowd": 0},
        {"id": 2, "image_id": 5, "category_id": 7, "bbox": [60, 30, 12, 6], "iscrowd": 0},
        {"id": 3, "image_id": 5, "category_id": 7, "bbox": [0, 0, 120, 60], "iscrowd": 1},
    ]
    categories = [{"id": 30, "name": "zebra"}, {"id": 7, "name": "ant"}]
    return {"images": images, "annotations": boxes, "categories": categories}


def test_classes_are_positions_and_boxes_parts_of_the_image(tmp_path: Path) -> None:
    scenes = Scenes(write_split(tmp_path / "train", two_images()), PLAIN, mirror=False)
    assert (scenes.names, len(scenes)) == (["ant", "zebra"], 2)
    first, second = scenes[0], scenes[1]
    assert first["labels"]["class_labels"].tolist() == [1, 0], "not the ids 30 and 7; no crowd"
    assert first["labels"]["boxes"].tolist() == [
        pytest.approx([0.25, 0.25, 0.5, 0.5]),
        pytest.approx([0.55, 0.55, 0.1, 0.1]),
    ]
    assert first["pixel_values"].shape == (3, 20, 30)
    assert (first["pixel_values"].min(), first["pixel_values"].max()) == (0, 1)
    assert second["labels"]["class_labels"].shape == (0,)
    assert second["labels"]["boxes"].shape == (0, 4)
    assert collate([first, second])["pixel_values"].shape == (2, 3, 20, 30)


def test_mirrored_images_have_mirrored_boxes(tmp_path: Path) -> None:
    scenes = Scenes(write_split(tmp_path / "train", two_images()), PLAIN, mirror=True)
    torch.manual_seed(0)
    seen = set()
    for _ in range(20):
        row = scenes[0]
        white_left = bool(row["pixel_values"][0, 10, 5] > 0.5)
        assert row["labels"]["boxes"][0, 0] == pytest.approx(0.25 if white_left else 0.75)
        seen.add(white_left)
    assert seen == {True, False}


def test_images_are_normalized_as_the_checkpoint_says(tmp_path: Path) -> None:
    settings = {"size": {"height": 20, "width": 30}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1.0]}
    pixels = Scenes(write_split(tmp_path / "train", two_images()), settings, mirror=False)[0]["pixel_values"]
    assert pixels[:, 10, 5].tolist() == pytest.approx([2, 1, 0.5])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rf_detr", "d_fine"])
def test_any_detection_checkpoint_is_trained_and_labels(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("accelerate", reason="pip install -r examples/train_student/requirements.txt")
    base = make_checkpoint(tmp_path / "base", kind, labels=["one", "two", "three"])
    values = two_images()
    write_split(tmp_path / "export" / "train", values)
    options = ["--model", str(base), "--output", str(tmp_path / "student"), "--steps", "3", "--batch", "2"]
    done = subprocess.run([*TRAIN, str(tmp_path / "export"), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "student" / "config.json").read_text())["id2label"] == {"0": "ant", "1": "zebra"}
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "b.png"):
        os.link(tmp_path / "export" / "train" / name, images / name)
    settings = {"vocabulary": "from_model", "model": {"name": str(tmp_path / "student")}}
    config = make_config(
        {"input": str(images), "output": str(tmp_path / "run"), "detect": {"score_floor": 0.001}, **settings}
    )
    run = label_here(config, threads=1)
    assert [category.name for category in run.vocabulary().categories] == ["ant", "zebra"]
    query = f"select status, count(*) from '{run.uri}/labels/*/*.parquet' group by 1"
    assert duckdb.sql(query).fetchall() == [("labeled", 2)]


@pytest.mark.slow
def test_a_student_learns_what_its_teacher_labeled(tmp_path: Path) -> None:
    """Minutes of one core: far from converged, and far from chance."""
    pytest.importorskip("accelerate", reason="pip install -r examples/train_student/requirements.txt")
    found = student_shapes.measure(tmp_path, scenes=300, held_out=60, steps=300)
    assert found["teacher"]["AP"] > 0.5
    assert found["student"]["AP50"] > 0.1
