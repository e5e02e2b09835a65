"""Label Studio's tasks and labeling config, by the rules of its documentation and of its SDK's validator.

`tests/tools/label_studio.py` gives the same files to the SDK itself, in an environment of its own.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labeler.cli import main
from labeler.exports.label_studio_masks import encode
from labeler.labels.detections import Detections
from labeler.labels.masks import Mask
from labeler.runs import Run
from tests.label_runs import row
from tests.mask_parts import Filling
from tests.red_boxes import label_folder, picture, red_run, red_share

SIDES = ("x", "y", "width", "height")
NAMES = ["bow (weapon)", 'a "quoted" & <sharp> name', "猫", "a, b / c"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return red_run(tmp_path_factory.mktemp("red"), segmenter=Filling())


def export(run: Run, out: Path, *options: str) -> list[dict[str, Any]]:
    assert main(["export", run.uri, "--to", "label-studio", "--output", str(out), *options]) == 0
    return [task for path in sorted(out.glob("*.json")) for task in json.loads(path.read_text())]


def decode(rle: list[int]) -> Any:
    """(values,) uint8, by thi.ng's rle-pack, written a second time for this test."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    values, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    out: list[int] = []
    while len(out) < values:
        repeated, length = take(1), take(sizes[take(2)]) + 1
        out += [take(word)] * length if repeated else [take(word) for _ in range(length)]
    return np.array(out, np.uint8)


def test_boxes_fit_the_pixels_in_percent_of_the_upright_image(run: Run, tmp_path: Path) -> None:
    tasks = export(run, tmp_path / "out", "--threshold", "0.4")
    assert len(tasks) == 18
    for task in tasks:
        prefix, _, name = task["data"]["image"].partition("?d=out/")
        assert prefix == "/data/local-files/"
        with Image.open(tmp_path / "out" / name) as image:
            pixels = np.asarray(image)
        (prediction,) = task["predictions"]
        box, mask = prediction["result"]
        height, width, _ = pixels.shape
        assert (box["original_width"], box["original_height"], box["image_rotation"]) == (width, height, 0)
        x, y, w, h = (box["value"][name] * side / 100 for name, side in zip(SIDES, [width, height] * 2, strict=True))
        assert red_share(pixels, [x, y, x + w, y + h]) == 1.0
        assert box["value"]["rectanglelabels"] == ["red box"]
        assert prediction["score"] == box["score"] >= 0.5
        assert prediction["model_version"] == run.manifest.run_id[:8]
        inside = decode(mask["value"]["rle"]).reshape(height, width, 4)
        assert (inside == inside[..., :1]).all()
        assert set(np.unique(inside)) == {0, 255}
        assert red_share(pixels, [x, y, x + w, y + h]) == 1.0
        assert (inside[..., 0] > 0).sum() == round(w) * round(h)
        assert (np.abs(pixels[inside[..., 0] > 0].astype(int) - (220, 20, 30)).max(-1) < 60).all()


def test_ids_lead_back_to_row_and_box(run: Run, tmp_path: Path) -> None:
    tasks = export(run, tmp_path / "out", "--suppress", "off", "--score-below", "0.4")
    rows = {row["labeler_row"]: row for row in (task["data"] for task in tasks)}
    assert list(rows)[:2] == ["000000/000000", "000000/000001"]
    for task in tasks:
        data = task["data"]
        assert data["labeler_run"] == run.manifest.run_id
        assert len(data["labeler_digest"]) == 32
        ids = [region["id"] for region in task["predictions"][0]["result"]]
        stem = data["labeler_row"].replace("/", "-")
        assert ids == [f"{stem}-1", f"{stem}-1-mask"], "the blue box is the second of the row, whatever was selected"


def test_an_image_without_boxes_keeps_its_empty_prediction(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(picture(1, format="PNG", red=False))
    (task,) = export(label_folder(tmp_path / "in", tmp_path / "run", keep=()), tmp_path / "out")
    assert task["predictions"][0] | {"model_version": ""} == {"model_version": "", "score": 0.0, "result": []}


def test_the_config_names_all_that_tasks_use(run: Run, tmp_path: Path) -> None:
    tasks = export(run, tmp_path / "out")
    view = ElementTree.parse(tmp_path / "out/labels.xml").getroot()
    (image,) = view.iter("Image")
    assert (image.get("name"), image.get("value")) == ("image", "$image")
    controls = {control.get("name"): control for control in view if control.get("toName")}
    regions = [region for task in tasks for region in task["predictions"][0]["result"]]
    assert {region["from_name"] for region in regions} == {"label", "mask"}
    for region in regions:
        control = controls[region["from_name"]]
        assert region["to_name"] == control.get("toName") == image.get("name")
        assert region["type"] == control.tag.lower()
        assert set(region["value"][region["type"]]) <= {label.get("value") for label in control}
    assert [(label.get("value"), label.get("category")) for label in controls["label"]] == [
        ("red box", "3"),
        ("blue box", "7"),
    ]


def test_only_names_with_a_box_are_offered_if_asked(run: Run, tmp_path: Path) -> None:
    export(run, tmp_path / "out", "--threshold", "0.4", "--labels", "present")
    view = ElementTree.parse(tmp_path / "out/labels.xml").getroot()
    assert {label.get("value") for label in view.iter("Label")} == {"red box"}


def test_odd_names_and_boxes_beyond_the_border(tmp_path: Path) -> None:
    from tests.exports_of_files import run_over_pictures

    found = Detections.of(
        [[-3, -2, 50, 40], [60, 30, 99, 70], [10, 10, 20, 20], [0, 0, 96, 64]], [0.9] * 4, [1, 2, 3, 4]
    )
    run = run_over_pictures(tmp_path, [found], names=NAMES)
    (task,) = export(run, tmp_path / "out", "--suppress", "off")
    values = [region["value"] for region in task["predictions"][0]["result"]]
    assert [value["rectanglelabels"][0] for value in values] == NAMES
    for value in values:
        assert 0 <= value["x"] <= value["x"] + value["width"] <= 100
        assert 0 <= value["y"] <= value["y"] + value["height"] <= 100
    assert values[3] == {"x": 0, "y": 0, "width": 100, "height": 100, "rotation": 0, "rectanglelabels": ["a, b / c"]}
    view = ElementTree.parse(tmp_path / "out/labels.xml").getroot()
    assert [label.get("value") for label in view.iter("Label")] == NAMES


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 700), (37, 41), (400, 300)])
def test_a_mask_is_what_it_was(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape[0])
    noise = rng.random(shape) < 0.5
    blob = np.zeros(shape, np.bool_)
    blob[shape[0] // 4 : shape[0] // 2 + 1, shape[1] // 3 : shape[1] // 2 + 1] = True
    for pixels in (np.zeros(shape, np.bool_), np.ones(shape, np.bool_), blob, noise if noise.size < 3_000 else blob):
        mask = Mask.of_window(pixels.T, 0, 0, height=shape[0], width=shape[1])
        values = decode(encode(mask)).reshape(*shape, 4)
        assert (values == np.where(pixels, 255, 0)[..., None]).all()


def test_tasks_are_cut_into_files_and_splits(run: Run, tmp_path: Path) -> None:
    whole = export(run, tmp_path / "one", "--image-prefix", "s3://bucket/some")
    assert whole[0]["data"]["image"] == "s3://bucket/some/images/000000/000000.jpg"
    cut = export(run, tmp_path / "many", "--image-prefix", "s3://bucket/some/", "--images-per-shard", "4")
    assert [path.name for path in sorted((tmp_path / "many").glob("*.json"))][:2] == [
        "tasks-00000.json",
        "tasks-00001.json",
    ]
    assert cut == whole
    split = export(run, tmp_path / "split", "--image-prefix", "s3://bucket/some", "--split", "train=0.6,val=0.4")
    assert sorted(path.name for path in (tmp_path / "split").glob("*.json")) == ["train-00000.json", "val-00000.json"]
    assert sorted(task["data"]["labeler_row"] for task in split) == [task["data"]["labeler_row"] for task in whole]


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "s3://key:secret@bucket/a",
        "https://host/a?d=b&X-Amz-Signature=c",
        "https://user@host/a",
        "https://host/a?token=secret",
        "https://host/a?secret",
        "https://host/a?d=b&secret",
        "https://host/a?d=b?token=secret",
        "https://host/a?",
    ],
)
def test_a_prefix_with_a_secret_is_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], prefix: str
) -> None:
    command = ["export", run.uri, "--to", "label-studio", "--output", str(tmp_path / "out"), "--image-prefix", prefix]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("labeler: --image-prefix")
    assert "secret" not in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("prefix", ["/data/local-files/?d=", "/data/local-files/?d=some/day=3/"])
def test_the_address_of_local_files_may_have_its_query(run: Run, tmp_path: Path, prefix: str) -> None:
    tasks = export(run, tmp_path / "out", "--image-prefix", prefix)
    assert tasks[0]["data"]["image"] == f"{prefix}images/000000/000000.jpg"


@pytest.mark.parametrize("option", [("--labels", "present"), ("--image-prefix", "s3://b/a")])
def test_its_options_are_refused_for_other_formats(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, str]
) -> None:
    assert main(["export", run.uri, "--to", "yolo", "--output", str(tmp_path / "out"), *option]) == 2
    assert f"{option[0]} is for --to label-studio" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_of_failed_images_is_an_empty_list(tmp_path: Path) -> None:
    from tests.label_runs import write_run

    run = write_run(tmp_path / "run", {(0, 0): [row(0, status="decode_error", width=None, height=None)]})
    assert export(run, tmp_path / "out") == []
    assert json.loads((tmp_path / "out/tasks-00000.json").read_text()) == []
