"""CVAT, X-AnyLabeling and Pascal VOC, by what their documentation and readers' sources ask of a file.

`make test-tools` opens the same files with the tools' own packages.
"""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision
from PIL import Image

from labeler.cli import main
from labeler.labels.detections import Detections
from labeler.runs import Run
from tests.exports_of_files import run_over_pictures
from tests.label_runs import row, write_run
from tests.red_boxes import red_run, red_share

NAMES = ["bow (weapon)", 'a "quoted" & <sharp> name', "猫", "not \ufffe XML"]
ODD = Detections.of(
    [[-3, -2, 50, 40], [60, 30, 99, 70], [10, 10, 20, 20], [0, 0, 96, 64]], [0.9, 0.8, 0.7, 0.12], [1, 2, 3, 4]
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return red_run(tmp_path_factory.mktemp("red"))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Names and boxes at the limits, and an image without a box."""
    return run_over_pictures(tmp_path_factory.mktemp("odd"), [ODD, Detections.empty()], names=NAMES)


def export(run: Run, out: Path, to: str, *options: str) -> Path:
    assert main(["export", run.uri, "--to", to, "--output", str(out), *options]) == 0
    return out


def pixels_of(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


# ---- CVAT


def cvat_images(out: Path) -> Iterator[tuple[Path, ElementTree.Element]]:
    for path in sorted(out.glob("*/annotations.xml")):
        for image in ElementTree.parse(path).getroot().iter("image"):
            yield path.parent / "images" / image.attrib["name"], image


def test_cvat_boxes_fit_the_pixels(run: Run, tmp_path: Path) -> None:
    found = list(cvat_images(export(run, tmp_path / "out", "cvat", "--threshold", "0.4")))
    assert [int(image.attrib["id"]) for _, image in found] == list(range(18))
    for path, image in found:
        pixels = pixels_of(path)
        assert pixels.shape[:2] == (int(image.attrib["height"]), int(image.attrib["width"]))
        (box,) = image.iter("box")
        assert red_share(pixels, [float(box.attrib[side]) for side in ("xtl", "ytl", "xbr", "ybr")]) == 1.0
        assert box.attrib["label"] == "red box"
        assert (box.attrib["source"], box.attrib["occluded"], box.attrib["z_order"]) == ("auto", "0", "0")


def test_cvat_keeps_score_and_id_as_attributes(odd: Run, tmp_path: Path) -> None:
    out = export(odd, tmp_path / "out", "cvat", "--suppress", "off")
    (_, first), (_, empty) = cvat_images(out)
    assert list(empty) == [], "an image without boxes is there, too"
    attributes = [{each.attrib["name"]: each.text for each in box} for box in first.iter("box")]
    assert attributes == [
        {"score": score, "labeler_box": f"000000/000000/{place}"}
        for place, score in enumerate(["90", "80", "70", "12"])
    ]
    corners = [[float(box.attrib[side]) for side in ("xtl", "ytl", "xbr", "ybr")] for box in first.iter("box")]
    assert corners == [[0, 0, 50, 40], [60, 30, 96, 64], [10, 10, 20, 20], [0, 0, 96, 64]]


def test_cvat_labels_have_the_attributes_that_boxes_use(odd: Run, tmp_path: Path) -> None:
    out = export(odd, tmp_path / "out", "cvat", "--suppress", "off")
    labels = {label["name"]: label for label in json.loads((out / "labels.json").read_text())}
    assert list(labels) == NAMES
    document = ElementTree.parse(out / "task-00000/annotations.xml").getroot()
    assert document.findtext("version") == "1.1"
    in_meta = [label.findtext("name") for label in document.iter("label")]
    assert in_meta == [*NAMES[:3], "not \ufffd XML"], "no XML may hold it"
    for label in labels.values():
        assert label["type"] == "rectangle"
        by_name = {each["name"]: each for each in label["attributes"]}
        assert by_name["score"]["input_type"] == "number"
        low, high, _ = (int(value) for value in by_name["score"]["values"])
        assert (low, high) == (0, 100)
        assert by_name["labeler_box"]["input_type"] == "text"
        assert all(each.keys() >= {"mutable", "default_value", "values"} for each in by_name.values())


def test_cvat_tasks_are_cut(run: Run, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out", "cvat", "--images-per-shard", "4", "--split", "train=0.6,val=0.4")
    tasks = sorted(path.parent.name for path in out.glob("*/annotations.xml"))
    assert len(tasks) > 5
    assert {name.split("-")[0] for name in tasks} == {"train", "val"}
    images = list(cvat_images(out))
    assert len(images) == 18
    assert {path for path, _ in images} == set(out.glob("*/images/*"))
    assert len({path.stem for path, _ in images}) == 18, "CVAT matches by the name without its extension"


# ---- X-AnyLabeling


def test_x_anylabeling_files_have_what_its_reader_asks_for(run: Run, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out", "x-anylabeling", "--threshold", "0.4")
    files = sorted(out.glob("images/**/*.json"))
    assert len(files) == 18
    for path in files:
        document = json.loads(path.read_text())
        assert document["imageData"] is None
        assert document["checked"] is False
        assert (document["version"], document["flags"]) == ("4.2.1", {})
        pixels = pixels_of(path.with_name(document["imagePath"]))
        assert pixels.shape[:2] == (document["imageHeight"], document["imageWidth"])
        (shape,) = document["shapes"]
        assert shape["shape_type"] == "rectangle"
        (left, top), right_top, (right, bottom), left_bottom = shape["points"]
        assert (right_top, left_bottom) == ([right, top], [left, bottom]), "clockwise from the upper left"
        assert red_share(pixels, [left, top, right, bottom]) == 1.0
        assert 0.5 <= shape["score"] <= 1
        assert document["labeler_run"] == run.manifest.run_id
        assert shape["description"] == f"{document['labeler_row']}/0"
        assert path.with_suffix("").as_posix().endswith(document["labeler_row"])
    assert (out / "classes.txt").read_text() == "red box\nblue box\n"


def test_x_anylabeling_has_a_folder_for_each_split(run: Run, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out", "x-anylabeling", "--split", "train=0.6,val=0.4")
    assert sorted(path.name for path in out.iterdir()) == [".labeler", "classes.txt", "train", "val"]
    assert len(list(out.glob("*/000*/*.json"))) == 18


def test_x_anylabeling_keeps_odd_names_and_clips(odd: Run, tmp_path: Path) -> None:
    out = export(odd, tmp_path / "out", "x-anylabeling", "--suppress", "off")
    first, empty = (json.loads(path.read_text()) for path in sorted(out.glob("images/**/*.json")))
    assert [shape["label"] for shape in first["shapes"]] == NAMES
    assert first["shapes"][1]["points"] == [[60, 30], [96, 30], [96, 64], [60, 64]]
    assert (empty["shapes"], empty["checked"]) == ([], False)


# ---- Pascal VOC


def test_voc_opens_in_supervision(run: Run, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out", "voc", "--threshold", "0.4")
    found = supervision.DetectionDataset.from_pascal_voc(str(out / "JPEGImages"), str(out / "Annotations"))
    assert len(found) == 18
    assert found.classes == ["red box"]
    for path, _, detections in found:
        pixels = pixels_of(Path(path))
        left, top, right, bottom = detections.xyxy[0]
        assert red_share(pixels, [left, top, right, bottom]) == 1.0
        assert (right - left, bottom - top) == (32, 20)
    stems = (out / "ImageSets/Main/trainval.txt").read_text().split()
    assert stems == sorted(path.stem for path in (out / "Annotations").iterdir())


def test_voc_corners_are_whole_pixels_that_count_from_one(odd: Run, tmp_path: Path) -> None:
    out = export(odd, tmp_path / "out", "voc", "--suppress", "off")
    root = ElementTree.parse(out / "Annotations/000000-000000.xml").getroot()
    sides = ("xmin", "ymin", "xmax", "ymax")
    boxes = [[int(item.findtext(f"bndbox/{side}") or 0) for side in sides] for item in root.iter("object")]
    assert boxes == [[1, 1, 50, 40], [61, 31, 96, 64], [11, 11, 20, 20], [1, 1, 96, 64]]
    assert [item.findtext("name") for item in root.iter("object")] == [*NAMES[:3], "not \ufffd XML"]
    assert {item.findtext("difficult") for item in root.iter("object")} == {"0"}
    assert root.findtext("filename") == "000000-000000.png"
    empty = ElementTree.parse(out / "Annotations/000000-000001.xml").getroot()
    assert list(empty.iter("object")) == []
    assert (out / "labelmap.txt").read_text().splitlines()[1:] == [f"{name}:::" for name in NAMES]


@pytest.mark.parametrize("name", ["tool: hammer", "#1"])
def test_voc_refuses_names_that_its_labelmap_cannot_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = run_over_pictures(tmp_path, [Detections.of([[10, 10, 30, 30]], [0.9], [1])], names=["cat #1", name])
    assert main(["export", run.uri, "--to", "voc", "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"labeler: --to voc: the category {name!r} cannot be in labelmap.txt")
    assert not (tmp_path / "out").exists()
    out = export(run, tmp_path / "out", "voc", "--categories", "cat #1")
    assert (out / "labelmap.txt").read_text().splitlines()[1:] == ["cat #1:::"]


def test_voc_has_a_list_for_each_split(run: Run, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out", "voc", "--split", "train=0.6,val=0.4")
    lists = {path.stem: path.read_text().split() for path in (out / "ImageSets/Main").iterdir()}
    assert lists.keys() == {"train", "val"}
    assert sorted(itertools.chain(*lists.values())) == sorted(path.stem for path in (out / "Annotations").iterdir())


def test_a_box_thinner_than_a_pixel_is_one_pixel_in_voc(tmp_path: Path) -> None:
    thin = Detections.of([[10.2, 10, 10.4, 30], [95.8, 0, 96, 64]], [0.9, 0.9], [1, 1])
    out = export(run_over_pictures(tmp_path, [thin], names=["a"]), tmp_path / "out", "voc", "--min-side", "0")
    root = ElementTree.parse(out / "Annotations/000000-000000.xml").getroot()
    widths = [(int(b.findtext("xmin") or 0), int(b.findtext("xmax") or 0)) for b in root.iter("bndbox")]
    assert widths == [(11, 11), (96, 96)]


@pytest.mark.parametrize("to", ["label-studio", "cvat", "x-anylabeling", "voc"])
def test_an_export_of_failed_images_is_complete(tmp_path: Path, to: str) -> None:
    run = write_run(tmp_path / "run", {(0, 0): [row(0, status="decode_error", width=None, height=None)]})
    out = export(run, tmp_path / "out", to)
    assert json.loads((out / ".labeler/export.json").read_text())["complete"] is True
    assert list(cvat_images(out)) == []


@pytest.mark.parametrize("to", ["label-studio", "cvat", "x-anylabeling", "voc"])
def test_equal_exports_are_equal_files(run: Run, tmp_path: Path, to: str) -> None:
    contents = []
    for name in ("one", "two"):
        options = ("--image-prefix", "s3://bucket/a") if to == "label-studio" else ()
        out = export(run, tmp_path / name / "out", to, *options)
        files = [path for path in sorted(out.rglob("*")) if path.is_file() and ".labeler" not in path.parts]
        contents.append({path.relative_to(out): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert len(contents[0]) > 18


@pytest.mark.parametrize("to", ["x-anylabeling", "voc"])
def test_what_is_cut_by_itself_refuses_a_size(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str
) -> None:
    assert main(["export", run.uri, "--to", to, "--output", str(tmp_path / "out"), "--images-per-shard", "4"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{to} files are cut by themselves" in line
