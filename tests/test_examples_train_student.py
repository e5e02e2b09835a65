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
    """Categories whose IDs are not class numbers and not in order; a crowd; an image without objects."""
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


def boxes_on_grey(folder: Path) -> dict[str, Any]:
    """Two images of one red and one blue box each, elsewhere; ids of categories in the other order of their colors."""
    values: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 30, "name": "red"}]}
    values["categories"].append({"id": 7, "name": "blue"})
    folder.mkdir(parents=True)
    for number, places in enumerate([[(8, 8), (70, 60)], [(60, 20), (16, 70)]]):
        pixels = np.full((128, 128, 3), 128, np.uint8)
        for (x, y), category, color in zip(places, (30, 7), ((255, 0, 0), (0, 0, 255)), strict=True):
            pixels[y : y + 40, x : x + 48] = color
            note = {"id": len(values["annotations"]) + 1, "image_id": number, "category_id": category, "iscrowd": 0}
            values["annotations"].append(note | {"bbox": [x, y, 48, 40]})
        name = f"{number}.png"
        Image.fromarray(pixels).save(folder / name)
        values["images"].append({"id": number, "file_name": name, "width": 128, "height": 128})
    (folder / "_annotations.coco.json").write_text(json.dumps(values))
    return values


@pytest.mark.slow
def test_what_is_learned_by_heart_is_labeled_again(tmp_path: Path) -> None:
    """Classes, boxes and pixels mean the same to the training and to labeler, or two images could not be learned."""
    pytest.importorskip("accelerate", reason="pip install -r examples/train_student/requirements.txt")
    values = boxes_on_grey(tmp_path / "export" / "train")
    options = ["--output", str(tmp_path / "student"), "--steps", "200", "--batch", "2", "--lr", "1e-3"]
    done = subprocess.run([*TRAIN, str(tmp_path / "export"), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    settings = {"vocabulary": "from_model", "model": {"name": str(tmp_path / "student")}}
    images = tmp_path / "images"
    images.mkdir()
    for image in values["images"]:
        os.link(tmp_path / "export" / "train" / image["file_name"], images / image["file_name"])
    label_here(make_config({"input": str(images), "output": str(tmp_path / "run"), **settings}), threads=1)
    truth = values | {"annotations": [note | {"area": 48 * 40} for note in values["annotations"]]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    found = student_shapes.judged(tmp_path / "run", str(tmp_path / "truth.json"))
    assert found["AP50"] > 0.4


@pytest.mark.slow
def test_the_chain_goes_from_a_teacher_to_the_ap_of_both(tmp_path: Path) -> None:
    """Too few steps to learn anything: what is tested is that each command takes what the one before it wrote."""
    pytest.importorskip("accelerate", reason="pip install -r examples/train_student/requirements.txt")
    found = student_shapes.measure(tmp_path, scenes=40, held_out=20, steps=5)
    assert found["teacher"]["AP"] > 0.5
    assert 0 <= found["student"]["AP"] < found["teacher"]["AP"]
