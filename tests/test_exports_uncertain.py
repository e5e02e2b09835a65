"""Boxes between two scores: background, regions to ignore, painted over, or their images excluded."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from labeler.byte_budget import ByteBudget
from labeler.cli import main
from labeler.exports import pixels
from labeler.labels.detections import Detections
from labeler.runs import Run
from tests.exports_of_files import run_over_pictures
from tests.label_runs import row, write_run

# certain cat; uncertain dog; uncertain cat in the certain one's place; background
FOUR = Detections.of(
    [[10, 10, 30, 30], [40.5, 20, 60, 50], [11, 10, 30, 30], [70, 10, 90, 30]], [0.9, 0.4, 0.35, 0.05], [1, 2, 1, 2]
)
SURE = Detections.of([[10, 10, 30, 30]], [0.8], [2])
NAMES = ("cat", "dog")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_over_pictures(tmp_path_factory.mktemp("run"), [FOUR, SURE], names=NAMES)


def export(run: Run, out: Path, *options: str, to: str = "coco") -> Path:
    command = ["export", run.uri, "--to", to, "--output", str(out), "--threshold", "0.5"]
    assert main([*command, *options]) == 0
    return out


def annotations(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["annotations"]
    return found


def test_dropped_is_as_without_the_option(run: Run, tmp_path: Path) -> None:
    plain = export(run, tmp_path / "plain.json").read_bytes()
    assert export(run, tmp_path / "drop.json", "--uncertain", "0.1..").read_bytes() == plain
    assert export(run, tmp_path / "same.json", "--uncertain", "0.1..", "--uncertain-as", "drop").read_bytes() == plain


def test_as_crowd_they_are_regions_to_ignore(run: Run, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out.json", "--uncertain", "0.1..", "--uncertain-as", "crowd")
    cat, dog, sure = annotations(out)
    assert (cat["category_id"], cat["iscrowd"]) == (1, 0)
    assert (dog["category_id"], dog["iscrowd"], dog["bbox"], dog["score"]) == (2, 1, [40.5, 20.0, 19.5, 30.0], 0.4)
    assert (sure["id"], sure["iscrowd"]) == (3, 0)
    found = COCO(str(out))
    mask = found.annToMask(found.anns[dog["id"]])
    assert mask.shape == (64, 96)
    assert mask[20:50, 40:60].all()
    assert mask.sum() == dog["area"] == 20 * 30


def test_crowds_keep_ids_apart_across_parts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {(0, n): [row(n, FOUR)] for n in range(4)}, categories=[
        {"id": number, "name": name} for number, name in enumerate(NAMES, 1)
    ])  # fmt: skip
    options = ("--uncertain", "0.1..", "--uncertain-as", "crowd", "--images-per-shard", "1")
    out = export(run, tmp_path / "out", *options)
    ids = [note["id"] for path in sorted(out.glob("*.json")) for note in annotations(path)]
    assert ids == list(range(1, 9))


def test_without_suppression_the_same_object_is_uncertain_too(run: Run, tmp_path: Path) -> None:
    options = ("--uncertain", "0.1..", "--uncertain-as", "crowd")
    notes = annotations(export(run, tmp_path / "out.json", *options, "--suppress", "off"))
    assert [note["score"] for note in notes if note["iscrowd"]] == [0.4, 0.35]
    assert [n["score"] for n in annotations(export(run, tmp_path / "cat.json", *options, "--categories", "cat"))] == [
        0.9
    ]


def test_voc_calls_them_difficult(run: Run, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out", "--uncertain", "0.1..", "--uncertain-as", "crowd", to="voc")
    root = ElementTree.parse(out / "Annotations/000000-000000.xml").getroot()
    found = [
        (item.findtext("name"), item.findtext("difficult"), item.findtext("bndbox/xmax"))
        for item in root.iter("object")
    ]
    assert found == [("cat", "0", "30"), ("dog", "1", "60")]


def test_their_images_are_left_out(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = export(run, tmp_path / "out.json", "--uncertain", "0.1..", "--uncertain-as", "image")
    assert [image["id"] for image in json.loads(out.read_text())["images"]] == [2]
    assert "not selected: 1 images" in capsys.readouterr().out


@pytest.mark.parametrize("to", ["yolo", "webdataset", "hf", "label-studio", "coco"])
def test_they_are_painted_over_in_every_format_with_images(run: Run, tmp_path: Path, to: str) -> None:
    options = ["--uncertain", "0.1..", "--uncertain-as", "blank", *(["--images", "copy"] if to == "coco" else [])]
    plain, out = export(run, tmp_path / "plain", *options[4:], to=to), export(run, tmp_path / "out", *options, to=to)
    same = {path.relative_to(plain) for path in plain.rglob("*") if path.is_file() and ".labeler" not in path.parts}
    assert same == {path.relative_to(out) for path in out.rglob("*") if path.is_file() and ".labeler" not in path.parts}
    if to == "coco":
        check_painted(plain / "images/000000/000000.png", out / "images/000000/000000.png")
        assert (plain / "images/000000/000001.png").read_bytes() == (out / "images/000000/000001.png").read_bytes()
    else:
        assert any((plain / name).read_bytes() != (out / name).read_bytes() for name in same)


def check_painted(before: Path, after: Path) -> None:
    with Image.open(before) as plain, Image.open(after) as painted:
        whole, found = np.asarray(plain), np.asarray(painted)
    inside = np.zeros(whole.shape[:2], np.bool_)
    inside[20:50, 40:60] = True
    assert (found[inside] == np.round(whole.reshape(-1, 3).mean(0)).astype(np.uint8)).all()
    assert (found[~inside] == whole[~inside]).all()


def test_painting_spares_what_is_in_a_box_that_is_kept(tmp_path: Path) -> None:
    both = Detections.of([[20, 20, 40, 40], [30, 30, 60, 60]], [0.9, 0.4], [1, 2])
    run = run_over_pictures(tmp_path, [both], names=NAMES)
    plain = export(run, tmp_path / "plain", "--images", "copy") / "images/000000/000000.png"
    options = ("--images", "copy", "--uncertain", "0.1..", "--uncertain-as", "blank")
    out = export(run, tmp_path / "out", *options) / "images/000000/000000.png"
    with Image.open(plain) as before, Image.open(out) as after:
        assert (np.asarray(before)[20:40, 20:40] == np.asarray(after)[20:40, 20:40]).all()
        assert (np.asarray(after)[40:60, 40:60] == np.asarray(after)[41, 41]).all()


def test_painting_heeds_the_memory_budget_and_not_the_limit_of_pillow(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = export(run, tmp_path / "plain", "--images", "copy")
    taken = list[int]()

    class Counted(ByteBudget):
        def _take(self, size: int) -> None:
            taken.append(size)
            super()._take(size)

    with monkeypatch.context() as patched:
        patched.setattr(pixels, "ByteBudget", Counted)
        patched.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 64 // 2 - 1)  # open() refuses twice as many
        options = ("--images", "copy", "--uncertain", "0.1..", "--uncertain-as", "blank")
        out = export(run, tmp_path / "out", *options)
    (size,) = taken  # the other image has nothing to paint over, and is copied
    assert size >= 8 * 96 * 64
    check_painted(plain / "images/000000/000000.png", out / "images/000000/000000.png")


def test_a_category_that_is_left_out_is_not_uncertain(run: Run, tmp_path: Path) -> None:
    thresholds = tmp_path / "thresholds.yaml"
    thresholds.write_text("default: 0.5\ncategories: {dog: never}\n")
    options = ("--thresholds", str(thresholds), "--uncertain", "0.1..", "--uncertain-as", "crowd")
    assert [note["iscrowd"] for note in annotations(export(run, tmp_path / "out.json", *options))] == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--uncertain-as", "image"], "--uncertain-as needs --uncertain"),
        (["--uncertain", "0.1..0.3"], "--uncertain is a lowest score"),
        (["--uncertain", "..0.3"], "--uncertain is a lowest score"),
        (["--uncertain", "low"], "--uncertain is MIN..MAX"),
        (["--uncertain", "7.."], "--uncertain is a lowest score"),
        (["--uncertain", "0.5.."], "no threshold is above it"),
        (["--uncertain", "0.1..", "--uncertain-as", "blank"], "add --images copy"),
        (["--uncertain", "0.1..", "--uncertain-as", "crowd", "--to", "yolo"], "yolo has no regions to ignore"),
        (["--uncertain", "0.1..", "--uncertain-as", "crowd", "--to", "lvis"], "lvis has no regions to ignore"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    command = ["export", run.uri, "--to", "coco", "--output", str(tmp_path / "out"), "--threshold", "0.5"]
    assert main([*command, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()
