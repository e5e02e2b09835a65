"""Images of a unit that share forward passes, with a real detector: fewer passes, the same rows."""

from __future__ import annotations

import random
from pathlib import Path
from unittest.mock import patch

import pytest
from torch import Tensor

from labeler.detectors import GroundingDino
from labeler.detectors.grounding_dino.split_forward import ImageFeatures
from labeler.labeling.unit import UnitLabeler
from labeler.labels.records import Row
from labeler.prompts.grounding_dino import pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.shards import Item
from tests.detector_parts import VOCABULARY, assert_same
from tests.inputs import image_bytes

SIZES = [(120, 90), (90, 120), (120, 60), (90, 90)]


def drawn_items(count: int) -> list[Item]:
    """Images of four shapes in any order, and one that is none."""
    rng = random.Random(4)
    sizes = rng.choices(SIZES, k=count)
    drawn = [image_bytes(n, width=width, height=height) for n, (width, height) in enumerate(sizes)]
    drawn[5] = b"no image"
    return [Item(f"{n}.png", n, "u", None, None, data) for n, data in enumerate(drawn)]


def label(detector: GroundingDino, items: list[Item], together: int) -> tuple[list[Row], list[int]]:
    """Rows, and how many images each forward pass had."""
    images: list[int] = []
    encode = detector.network.forward.encode_image

    def counted(pixels: Tensor) -> ImageFeatures:
        images.append(len(pixels))
        return encode(pixels)

    with patch.object(detector.network.forward, "encode_image", counted):
        labeler = UnitLabeler(detector, decode_threads=2, images_per_batch=together)
        rows, work = labeler.label("000000", items)
    assert work.forwards == len(images)
    assert work.filled == sum(images)
    return rows, images


@pytest.mark.parametrize("passes", [1, 2])
def test_images_of_one_shape_share_forwards_and_rows_are_those_of_images_alone(mm_folder: Path, passes: int) -> None:
    prompts = pack(VOCABULARY, Tokenizer.load(mm_folder), max_categories=8 // passes)
    assert len(prompts.chunks) == passes
    detector = GroundingDino(mm_folder, prompts, threads=1, pairs_per_batch=4 * passes)
    items = drawn_items(15)
    alone, one_each = label(detector, items, together=1)
    shared, images = label(detector, items, together=4)
    assert one_each == [1] * 14
    assert (sorted(images), sum(images)) == ([1, 2, 3, 4, 4], 14)
    for found, expected in zip(shared, alone, strict=True):
        assert (found.index, found.status, found.digest) == (expected.index, expected.status, expected.digest)
        assert_same(found.detections, expected.detections)
    assert sum(len(row.detections) for row in alone) > 14
