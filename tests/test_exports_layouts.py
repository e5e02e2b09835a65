"""COCO as trainers and tools take it without moving files: category ids, and where labels and images lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision
from PIL import Image
from pycocotools.coco import COCO

from labeler.cli import main
from labeler.runs import Run
from tests.export_parts import FOUR, run_of
from tests.label_runs import row
from tests.mask_parts import Filling
from tests.red_boxes import red_run, red_share

ID_KEYS = {"digest", "labeler_row"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return red_run(tmp_path_factory.mktemp("red"), segmenter=Filling())


def export(run: Run, out: Path, *options: str) -> Path:
    assert main(["export", run.uri, "--to", "coco", "--output", str(out), *options]) == 0
    return out


@pytest.mark.parametrize(("kind", "ids"), [("vocabulary", [3, 8]), ("zero-based", [0, 1]), ("one-based", [1, 2])])
def test_category_ids_are_positions_if_asked(tmp_path: Path, kind: str, ids: list[int]) -> None:
    run = run_of(tmp_path, [row(0, FOUR)])
    out = export(run, tmp_path / "one.json", "--category-ids", kind, "--suppress", "off", "--min-side", "0")
    document = json.loads(out.read_text())
    assert [(c["id"], c["name"]) for c in document["categories"]] == list(zip(ids, ["cat", "dog"], strict=True))
    by_score = {a["score"]: a["category_id"] for a in document["annotations"]}
    cat, dog = ids
    assert by_score == {0.9: cat, 0.8: dog, 0.7: cat, 0.4: dog}


def test_positions_count_what_is_exported(tmp_path: Path) -> None:
    run = run_of(tmp_path, [row(0, FOUR)])
    out = export(run, tmp_path / "one.json", "--category-ids", "zero-based", "--categories", "dog")
    document = json.loads(out.read_text())
    assert [c["id"] for c in document["categories"]] == [0]
    assert {a["category_id"] for a in document["annotations"]} == {0}


def check(labels: Path, images: Path) -> int:
    """Every box is red and every mask as large as its box; returns how many images there are."""
    found = COCO(str(labels))
    for note in found.anns.values():
        x, y, w, h = note["bbox"]
        with Image.open(images / found.imgs[note["image_id"]]["file_name"]) as image:
            assert red_share(np.asarray(image), [x, y, x + w, y + h]) == 1.0
        assert found.annToMask(note).sum() == w * h
    opened = supervision.DetectionDataset.from_coco(str(images), str(labels))
    assert sum(len(detections) for _, _, detections in opened) == len(found.anns)
    assert {path.name for path in images.iterdir() if path.suffix != ".json"} == {
        image["file_name"] for image in found.imgs.values()
    }
    return len(found.imgs)


def test_the_coco_layout(run: Run, tmp_path: Path) -> None:
    out = export(run, tmp_path / "split", "--layout", "coco", "--images", "copy", "--split", "train=0.6,val=0.4")
    counts = [check(out / f"annotations/instances_{s}.json", out / "images" / s) for s in ("train", "val")]
    assert sum(counts) == 18
    assert min(counts) > 0
    whole = export(run, tmp_path / "whole", "--layout", "coco", "--images", "copy")
    assert check(whole / "annotations/instances_default.json", whole / "images/default") == 18


def test_the_coco_layout_without_images_names_the_inputs(run: Run, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out", "--layout", "coco")
    document = json.loads((out / "annotations/instances_default.json").read_text())
    assert document["images"][0]["file_name"] == "part-0.tar/000.jpg"
    assert not (out / "images").exists()


def test_the_roboflow_layout(run: Run, tmp_path: Path) -> None:
    shares = "train=0.5,val=0.3,test=0.2"
    out = export(run, tmp_path / "out", "--layout", "roboflow", "--split", shares)
    assert sorted(path.name for path in out.iterdir() if path.name != ".labeler") == ["test", "train", "valid"]
    counts = [check(out / split / "_annotations.coco.json", out / split) for split in ("train", "valid", "test")]
    assert sum(counts) == 18
    whole = export(run, tmp_path / "whole", "--layout", "roboflow")
    assert check(whole / "train/_annotations.coco.json", whole / "train") == 18


def test_other_layouts_name_image_and_box(run: Run, tmp_path: Path) -> None:
    options = ("--suppress", "off", "--score-below", "0.4")
    out = export(run, tmp_path / "out", "--layout", "coco", *options)
    document: dict[str, Any] = json.loads((out / "annotations/instances_default.json").read_text())
    assert [image["labeler_row"] for image in document["images"]][:2] == ["000000/000000", "000000/000001"]
    rows = {image["id"]: image["labeler_row"] for image in document["images"]}
    assert [a["labeler_box"] for a in document["annotations"]] == [
        f"{rows[a['image_id']]}/1" for a in document["annotations"]
    ]
    flat = json.loads(export(run, tmp_path / "flat.json", *options).read_text())
    assert [{k: v for k, v in i.items() if k not in ID_KEYS} for i in document["images"]] == flat["images"]
    assert [{k: v for k, v in a.items() if k != "labeler_box"} for a in document["annotations"]] == flat["annotations"]


def test_without_a_mask_the_segmentation_is_empty(tmp_path: Path) -> None:
    out = export(run_of(tmp_path, [row(0, FOUR)]), tmp_path / "out", "--layout", "coco")
    document = json.loads((out / "annotations/instances_default.json").read_text())
    assert [a["segmentation"] for a in document["annotations"]] == [[], []]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layout", "roboflow", "--split", "train=0.5,holdout=0.5"], "but not holdout"),
        (["--layout", "roboflow", "--split", "val=0.5,valid=0.5"], "but not val and valid"),
        (["--layout", "coco", "--images-per-shard", "5"], "omit --images-per-shard"),
        (["--to", "lvis", "--layout", "coco"], "--layout is for --to coco"),
        (["--to", "odvg", "--category-ids", "zero-based"], "--category-ids is for --to coco"),
    ],
)
def test_what_has_no_place_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    run = run_of(tmp_path, [row(0, FOUR)])
    assert main(["export", run.uri, "--to", "coco", "--output", str(tmp_path / "out"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_an_export_that_an_earlier_version_began_goes_on(run: Run, tmp_path: Path) -> None:
    """What came later is not in its manifest."""
    out = export(run, tmp_path / "out", "--images", "copy")
    asked = json.loads((out / ".labeler/export.json").read_text())["asked"]
    assert asked["settings"].keys() == {"lvis", "copy_images", "images_per_part", "negatives"}
