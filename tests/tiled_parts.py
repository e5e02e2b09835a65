"""Detectors of each family, synthetic images, and the rows of tiles cut by hand, for tests of tiles."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from labeler.config import Config, make_config
from labeler.labeling.recipe import labeler_recipe
from labeler.labeling.resolve import resolve_job
from labeler.labeling.unit import UnitLabeler
from labeler.labels.detections import Detections
from labeler.labels.records import Row
from labeler.shards import Item
from tests.clip_files import write_clip_files
from tests.closed_sets import make_checkpoint
from tests.detector_parts import photo
from tests.owl_model import owl_checkpoint
from tests.own_detectors import forget_module, write_module, write_weights
from tests.sam3_model import redraw, sam3_checkpoint, sam3_config

TILE, OVERLAP = 64, 0.5
LARGE, WIDE, SMALL = (100, 120), (40, 110), (60, 64)  # height, width: 3 x 3 tiles, 3 thin ones, none
NAMES = {
    "grounding-dino": ["cat", "small boat", "house", "red fox"],
    "owl-vit": ["cat", "dog"],
    "owlv2": ["cat", "dog"],
    "detr": ["circle", "square"],
    "rt_detr": ["circle", "square"],
    "sam3": ["cat", "dog"],
    "own": ["cat", "dog"],
}
FINDS_CORNERS = """
import numpy as np

VERSION = 1

class Detector:
    def __init__(self, folder, categories, device, options):
        self.ids = [category.id for category in categories]

    def detect(self, images):
        return [self.one(image) for image in images]

    def one(self, image):
        if (image == 255).all():
            return RuntimeError("all white")
        height, width = image.shape[:2]
        gray = image.mean(2)
        boxes = [[x, y, x + 20, y + 16] for y in range(0, height, 9) for x in range(0, width, 11)]
        scores = [gray[y : y + 16, x : x + 20].mean() / 255 for x, y, _, _ in boxes]
        return boxes, scores, [self.ids[i % 2] for i in range(len(boxes))]
"""


CUT_AND_WHOLE = """
VERSION = 1

class Detector:
    def __init__(self, folder, categories, device, options):
        self.id = categories[0].id

    def detect(self, images):
        return [([[0, 20, 40, 40], [3, 20, 40, 40]], [0.9, 0.5], [self.id] * 2) for image in images]
"""


def config_for(family: str, mm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **detect: Any) -> Config:
    model: dict[str, Any] = {"device": "cpu"}
    if family == "grounding-dino":
        model["name"] = str(mm_folder)
    elif family in ("own", "cut"):
        write_module(tmp_path, "own_finder", FINDS_CORNERS if family == "own" else CUT_AND_WHOLE)
        forget_module("own_finder")
        monkeypatch.syspath_prepend(str(tmp_path))
        model |= {"name": str(write_weights(tmp_path / "weights")), "family": "own_finder"}
    else:
        folder = tmp_path / family
        makers: dict[str, Callable[[], object]] = {
            "owl-vit": lambda: owl_checkpoint(folder, "owl-vit"),
            "owlv2": lambda: owl_checkpoint(folder, "owlv2"),
            "sam3": lambda: sam3_with_words(folder),
        }
        if not folder.exists():
            makers.get(family, lambda: make_checkpoint(folder, family))()
        model["name"] = str(folder)
    detect = {"score_floor": 0.0, "max_detections": 60, "nms_iou": 0.5, **detect}
    return make_config(
        {
            "input": str(tmp_path / "in"),
            "output": str(tmp_path / "run"),
            "vocabulary": NAMES.get(family, ["cat", "dog"]),
            "model": model,
            "prompts": {"max_categories": 2} if family == "grounding-dino" else {},
            "detect": detect,
        }
    )


def sam3_with_words(folder: Path) -> None:
    config = sam3_config()
    folder.mkdir()
    config.text_config.vocab_size = write_clip_files(folder, NAMES["sam3"])
    model = transformers.Sam3Model(config)
    redraw(model)
    with torch.no_grad():  # so that there is something
        model.detr_decoder.presence_head.layer3.bias.fill_(4)
    sam3_checkpoint(folder, model)


def labeler_of(config: Config, **options: Any) -> UnitLabeler:
    return replace(labeler_recipe(resolve_job(config), threads=1), **options)()


def without_merging(config: Config) -> Config:
    """The same, but images are as they are: no tiles, no suppression, no cap."""
    plain = {"tile": None, "tile_overlap": 0.2, "nms_iou": 1, "max_detections": 0}
    return config.model_copy(update={"detect": config.detect.model_copy(update=plain)})


def item(index: int, pixels: np.ndarray) -> Item:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return Item(f"{index}.png", index, "u", None, None, out.getvalue())


def drawn(*sizes: tuple[int, int]) -> list[np.ndarray]:
    return [photo(seed, 120, 160)[:height, :width] for seed, (height, width) in enumerate(sizes)]


def starts(length: int) -> list[int]:
    """Of tiles of 64 pixels, at least 32 of which are in the next."""
    if length <= TILE:
        return [0]
    gaps = -(-(length - TILE) // 32)
    return [i * (length - TILE) // gaps for i in range(gaps + 1)]


def cut(box: np.ndarray, x: int, y: int, wide: int, high: int, width: int, height: int) -> bool:
    """Whether a box, in its tile's pixels, ends within a pixel of an edge beyond which the image continues."""
    return bool(
        (x > 0 and box[0] <= 1)
        or (y > 0 and box[1] <= 1)
        or (x + wide < width and box[2] >= wide - 1)
        or (y + high < height and box[3] >= high - 1)
    )


def by_hand(alone: UnitLabeler, pixels: np.ndarray, *, nms_iou: float, most: int) -> tuple[Detections, int, int]:
    """(an image's detections, how many boxes were cut, how many came from tiles).

    Args:
        alone: labels any image unchanged, without NMS and limit.
    """
    height, width = pixels.shape[:2]
    wide, high = min(TILE, width), min(TILE, height)
    places = [(x, y, wide, high) for y in starts(height) for x in starts(width)] + [(0, 0, width, height)]
    candidates: list[tuple[float, int, tuple[float, ...], int]] = []
    cuts = of_tiles = 0
    for number, (x, y, w, h) in enumerate(places):
        crop = np.asarray(Image.fromarray(pixels).crop((x, y, x + w, y + h)))
        ((row,), _) = alone.label("000000", [item(0, crop)])
        assert row.status in ("labeled", "empty")
        found = row.detections
        for box, score, id_, chunk in zip(found.boxes, found.scores, found.category_ids, found.chunks, strict=True):
            if cut(box, x, y, w, h, width, height):
                cuts += 1
                continue
            of_tiles += number < len(places) - 1
            shifted = box + np.array([x, y, x, y], np.float32)
            candidates.append((float(score), int(id_), tuple(shifted.tolist()), int(chunk)))
    candidates.sort(key=lambda each: (-each[0], each[1], each[2]))
    kept: list[tuple[float, int, tuple[float, ...], int]] = []
    for each in candidates:
        if all(each[1] != other[1] or iou(each[2], other[2]) <= nms_iou for other in kept):
            kept.append(each)
    scores, ids, boxes, chunks = zip(*kept[:most], strict=True)
    return Detections.of(boxes, scores, ids, chunks), cuts, of_tiles


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0.0) * max(high, 0.0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def assert_equal(got: Row, expected: Detections) -> None:
    """To the bit."""
    for name in ("boxes", "scores", "category_ids", "chunks"):
        np.testing.assert_array_equal(getattr(got.detections, name), getattr(expected, name))


Configured = Callable[..., Config]
