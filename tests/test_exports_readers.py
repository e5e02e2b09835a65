"""Every format, opened by the library that its users open it with, in every shape that an export can have."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pycocotools.mask
import pytest
import supervision
import webdataset
import yaml
from PIL import Image
from pycocotools.coco import COCO

from labeler import __version__
from labeler.cli import main
from labeler.exports.coco_files import CocoFormat
from labeler.exports.export import export_run
from labeler.exports.formats import Format
from labeler.exports.hugging_face import HuggingFaceFormat
from labeler.exports.odvg import OdvgFormat
from labeler.exports.parquet_tables import TablesFormat
from labeler.exports.selection import Selection
from labeler.exports.splits import parse_splits
from labeler.exports.webdataset_tars import WebDatasetFormat
from labeler.exports.yolo import YoloFormat
from labeler.labels.thresholds import Thresholds
from labeler.runs import Run, read_snapshot
from tests.mask_parts import Filling
from tests.red_boxes import mixed_run, red_share

IMAGES, BOXES = 16, 8  # of mixed_run: the first eight images have no box
THRESHOLD = 0.4  # leaves the red box of each image, and not the blue one in the same place
SPLIT = "train=0.5,val=0.5"


@pytest.fixture(scope="module", params=["boxes", "masks"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    segmenter = Filling() if request.param == "masks" else None
    return mixed_run(tmp_path_factory.mktemp(request.param), segmenter=segmenter)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


Seen = tuple[int, int, int]  # images, boxes, masks


def pixels_of(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


# ---- one reader for each format: counts what it finds, and looks at the pixels under every box


def read_coco(out: Path, *, images: bool) -> Seen:
    totals = np.zeros(3, int)
    for path in json_files(out):
        found = COCO(str(path))
        for note in found.anns.values():
            if "segmentation" in note:
                assert found.annToMask(note).sum() == note["area"] == 20 * 32
            if images:
                x, y, w, h = note["bbox"]
                data = (out / "images" / found.imgs[note["image_id"]]["file_name"]).read_bytes()
                assert red_share(pixels_of(data), [x, y, x + w, y + h]) == 1.0
        masks = sum("segmentation" in note for note in found.anns.values())
        totals += len(found.imgs), len(found.anns), masks
        if images:
            read_by_supervision(supervision.DetectionDataset.from_coco(str(out / "images"), str(path)), found)
    return as_seen(totals)


def read_by_supervision(opened: Any, found: COCO) -> None:
    assert opened.classes == ["red box", "blue box"]
    assert len(opened) == len(found.imgs)
    assert sum(len(detections) for _, _, detections in opened) == len(found.anns)


def json_files(out: Path) -> list[Path]:
    return [out] if out.is_file() else sorted(path for path in out.glob("*.json"))


def read_odvg(out: Path, *, images: bool) -> Seen:
    lines = [json.loads(text) for path in sorted(out.glob("*.jsonl")) for text in path.read_text().splitlines()]
    for line in lines:
        for instance in line["detection"]["instances"]:
            assert (instance["label"], instance["category"]) == (0, "red box")
            if images:
                data = (out / "images" / line["filename"]).read_bytes()
                assert red_share(pixels_of(data), instance["bbox"]) == 1.0
    return len(lines), sum(len(line["detection"]["instances"]) for line in lines), 0


def read_yolo(out: Path, *, images: bool) -> Seen:
    opened = [
        supervision.DetectionDataset.from_yolo(
            str(out / f"images/{split}"), str(out / f"labels/{split}"), str(out / "data.yaml")
        )
        for split in ("train", "val")
    ]
    whole = supervision.DetectionDataset.merge(opened)
    boxes = 0
    for path, _, detections in whole:
        for box in detections.xyxy:
            assert red_share(pixels_of(Path(path).read_bytes()), box) == 1.0
        boxes += len(detections)
    return len(whole), boxes, 0


def read_hugging_face(out: Path, *, images: bool) -> Seen:
    totals = np.zeros(3, int)
    for sample in samples(datasets.load_dataset(str(out))):
        for x, y, w, h in sample["objects"]["bbox"]:
            assert red_share(np.asarray(sample["image"].convert("RGB")), [x, y, x + w, y + h]) == 1.0
        totals += 1, len(sample["objects"]["category"]), 0
    return as_seen(totals)


def read_parquet(out: Path, *, images: bool) -> Seen:
    boxes = list(samples(datasets.load_dataset(str(out), "boxes")))
    rows = list(samples(datasets.load_dataset(str(out), "images")))
    assert list(samples(datasets.load_dataset(str(out)))) == rows, "what opens without a name is the table of images"
    by_id = {row["image_id"]: row for row in rows}
    for box in boxes if images else ():
        corners = [box[side] for side in ("x_min", "y_min", "x_max", "y_max")]
        assert red_share(np.asarray(by_id[box["image_id"]]["image"].convert("RGB")), corners) == 1.0
    masks = [box["mask"] for box in boxes if box["mask"] is not None]
    assert all(pycocotools.mask.area(mask) == 20 * 32 for mask in masks)
    return len(rows), len(boxes), len(masks)


def read_webdataset(out: Path, *, images: bool) -> Seen:
    by_datasets = list(samples(datasets.load_dataset(str(out))))
    tars = sorted(str(path) for path in out.glob("*.tar"))
    by_webdataset = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).decode("pil"))
    seen = []
    for found in (by_datasets, by_webdataset):
        totals = np.zeros(3, int)
        for sample in found:
            (image,) = (sample[e] for e in ("jpg", "png", "webp", "bmp") if sample.get(e) is not None)
            labels = sample["json"]
            masks = [mask for mask in labels.get("masks") or () if mask is not None]
            for box in labels["boxes_xyxy"]:
                assert red_share(np.asarray(image.convert("RGB")), box) == 1.0
            assert all(pycocotools.mask.area(mask) == 20 * 32 for mask in masks)
            totals += 1, len(labels["boxes_xyxy"]), len(masks)
        seen.append(as_seen(totals))
    assert seen[0] == seen[1]
    return seen[0]


def samples(loaded: Any) -> Iterator[dict[str, Any]]:
    return itertools.chain.from_iterable(loaded.values())


def as_seen(totals: Any) -> Seen:
    return int(totals[0]), int(totals[1]), int(totals[2])


READERS: dict[str, Callable[..., Seen]] = {
    "coco": read_coco,
    "lvis": read_coco,
    "odvg": read_odvg,
    "yolo": read_yolo,
    "hf": read_hugging_face,
    "parquet": read_parquet,
    "webdataset": read_webdataset,
}
IMAGES_ARE_A_CHOICE = ("coco", "lvis", "odvg", "parquet")
HAVE_MASKS = ("coco", "lvis", "parquet", "webdataset")
FORMATS = [(to, copy) for to in READERS for copy in ((False, True) if to in IMAGES_ARE_A_CHOICE else (True,))]


def expected(run: Run, to: str, images: int = IMAGES) -> Seen:
    has_masks = to in HAVE_MASKS and "masks" in Path(run.uri).parent.name
    return images, BOXES, BOXES if has_masks else 0


def export(run: Run, out: Path, to: str, *options: str, copy: bool) -> Path:
    more = ["--images", "copy"] if copy and to in IMAGES_ARE_A_CHOICE else []
    command = ["export", run.uri, "--to", to, "--output", str(out), "--threshold", str(THRESHOLD)]
    assert main([*command, *more, *options]) == 0
    return out


@pytest.mark.parametrize(("to", "copy"), FORMATS)
@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_an_export_opens_in_its_reader(run: Run, tmp_path: Path, to: str, copy: bool, split: bool) -> None:
    options = ("--split", SPLIT) if split else ()
    assert READERS[to](export(run, tmp_path / "out", to, *options, copy=copy), images=copy) == expected(run, to)


@pytest.mark.parametrize(("to", "copy"), FORMATS)
def test_it_opens_when_the_first_shard_gives_nothing(run: Run, tmp_path: Path, to: str, copy: bool) -> None:
    out = export(run, tmp_path / "out", to, "--boxes", "1..", copy=copy)
    assert READERS[to](out, images=copy) == expected(run, to, BOXES)


def in_small_parts(to: str, *, copy: bool) -> Format:
    """A format whose every part is one image, so that each part is empty for one of two splits."""
    formats: dict[str, Format] = {
        "coco": CocoFormat(False, copy, 1),
        "lvis": CocoFormat(True, copy, 1),
        "odvg": OdvgFormat(copy, 1),
        "yolo": YoloFormat(1),
        "hf": HuggingFaceFormat(1),
        "parquet": TablesFormat(copy, 1, 1),
        "webdataset": WebDatasetFormat(1),
    }
    return formats[to]


@pytest.mark.parametrize(("to", "copy"), FORMATS)
def test_it_opens_when_the_first_files_of_a_split_are_empty(run: Run, tmp_path: Path, to: str, copy: bool) -> None:
    selection = Selection(thresholds=Thresholds(THRESHOLD), splits=parse_splits(SPLIT))
    out = tmp_path / "out"
    done = export_run(read_snapshot(run), selection, in_small_parts(to, copy=copy), str(out))
    assert done.parts == IMAGES
    assert READERS[to](out, images=copy) == expected(run, to)


def test_a_split_without_rows_is_left_out_of_the_card(run: Run, tmp_path: Path) -> None:
    options = ("--split", "train=0.99999,val=0.00001")
    for to in ("hf", "webdataset", "parquet"):
        assert list(datasets.load_dataset(str(export(run, tmp_path / to, to, *options, copy=True)))) == ["train"]


def test_the_card_says_what_the_labels_were_made_with(run: Run, tmp_path: Path) -> None:
    text = (export(run, tmp_path / "out", "hf", copy=True) / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "unknown"
    fields = run.manifest.fingerprint_fields
    for known in (run.manifest.run_id, "`tiny`", "digest `m1`", fields["prompts"], fields["vocabulary"], __version__):
        assert known in text
    assert "0.4 by default" in text
