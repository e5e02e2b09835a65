"""The part of an image that shows a box: its position, and when it has its own image."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labeler.labels.detections import Detections
from labeler.labels.thresholds import Thresholds
from labeler.review import write_report
from labeler.review.pictures import CROP_PX, CROPS, THUMBNAIL_PX, region_around
from labeler.review.report import run_settings
from labeler.runs import read_snapshot
from tests.review_runs import data_of, write_run

WIDTH, HEIGHT = 1200, 900
SMALL = [[100, 100, 140, 130], [1180, 880, 1200, 900], [600, 300, 640, 390], [20, 600, 60, 620]]
LARGE = [100, 50, 1100, 850]


def gradient(folder: Path) -> Path:
    """An image in which each place has a color of its own."""
    folder.mkdir()
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([x * 255 / WIDTH, y * 255 / HEIGHT, np.full_like(x, 90)], -1).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    return folder


def test_each_small_box_has_a_sharper_picture_of_its_surroundings(tmp_path: Path) -> None:
    found = Detections.of([LARGE, *SMALL], [0.9, 0.8, 0.7, 0.6, 0.5], [3, 8, 8, 8, 8])
    run = write_run(tmp_path / "run", gradient(tmp_path / "in"), format="images", detect=lambda *_: found)
    write_report(read_snapshot(run), str(tmp_path / "r.html"), thresholds=Thresholds(0.3))
    (image,) = data_of((tmp_path / "r.html").read_text())["images"]
    thumbnail = Image.open(io.BytesIO(base64.b64decode(image["jpeg"])))
    assert max(thumbnail.size) == THUMBNAIL_PX
    assert len(image["crops"]) == CROPS < len(SMALL)
    assert "0" not in image["crops"], "the thumbnail shows a box over most of the image as well"
    for place, (x0, y0, x1, y1, jpeg) in image["crops"].items():
        box = SMALL[int(place) - 1]
        assert (x0, y0, x1, y1) == region_around(box, WIDTH, HEIGHT)
        crop = Image.open(io.BytesIO(base64.b64decode(jpeg))).convert("RGB")
        assert max(crop.size) <= CROP_PX
        assert crop.width / (x1 - x0) > 1.2 * THUMBNAIL_PX / WIDTH
        middle: Any = crop.getpixel((crop.width // 2, crop.height // 2))
        expected = ((x0 + x1) / 2 * 255 / WIDTH, (y0 + y1) / 2 * 255 / HEIGHT, 90)
        assert middle == pytest.approx(expected, abs=4)


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (40, 30), (5000, 20)])
def test_a_region_holds_its_box_lies_in_the_image_and_fits_the_frame(size: tuple[int, int]) -> None:
    width, height = size
    rng = np.random.default_rng(0)
    for _ in range(300):
        xs, ys = np.sort(rng.uniform(0, width, 2)), np.sort(rng.uniform(0, height, 2))
        x0, y0, x1, y1 = region_around([xs[0], ys[0], xs[1], ys[1]], width, height)
        assert 0 <= x0 <= xs[0] + 1
        assert 0 <= y0 <= ys[0] + 1
        assert xs[1] - 1 <= x1 <= width
        assert ys[1] - 1 <= y1 <= height
        if x1 - x0 < width and y1 - y0 < height:
            assert (x1 - x0) / (y1 - y0) == pytest.approx(4 / 3, abs=0.05)
            assert x1 - x0 >= 64


def test_a_box_outside_its_image_still_has_a_region() -> None:
    assert region_around([-50, -50, -20, -20], 640, 480) == (0, 0, 85, 64)
    assert region_around([700, 500, 900, 800], 640, 480) == (555, 416, 640, 480)


def test_settings_are_dotted_redacted_and_short() -> None:
    config = {
        "model": {"name": "tiny", "s3": {}},
        "input": ["s3://b/a.tar", "https://user:secret@host/x.tar"],
        "vocabulary": [f"name {i}" for i in range(10_000)],
        "detect": {"score_floor": 0.05, "image_size": None},
    }
    found = dict(run_settings(config))
    assert found["model.name"] == "tiny"
    assert found["model.s3"] == "{}"
    assert (found["detect.score_floor"], found["detect.image_size"]) == ("0.05", "null")
    assert "secret" not in found["input"]
    assert len(found["vocabulary"]) < 300
    assert found["vocabulary"].endswith("…")
