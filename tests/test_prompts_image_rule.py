"""How images come to a model's size: what each rule makes of an image, and where its boxes lie then."""

from __future__ import annotations

import numpy as np
import pytest
from transformers.models.yolos.image_processing_pil_yolos import get_size_with_aspect_ratio_yolos

from labeler.detectors.preprocess import Preprocessing
from labeler.errors import Refused
from labeler.prompts import ImageRule

EDGES, STRETCH, SQUARE = ImageRule("edges", (80, 133)), ImageRule("stretch", (64, 96)), ImageRule("square", (60, 60))


@pytest.mark.parametrize(
    ("rule", "target", "canvas"),
    [(EDGES, (80, 106), (80, 106)), (STRETCH, (64, 96), (64, 96)), (SQUARE, (45, 60), (60, 60))],
)
def test_an_image_of_480_by_640_comes_to_the_size_of_the_rule(
    rule: ImageRule, target: tuple[int, int], canvas: tuple[int, int]
) -> None:
    assert (rule.target(480, 640), rule.canvas(480, 640)) == (target, canvas)
    image = np.full((480, 640, 3), 200, np.uint8)
    pixels = Preprocessing(rule).prepare(image).pixels
    assert pixels.shape == (*canvas, 3)
    assert (pixels[: target[0], : target[1]] == 200).all()
    assert (pixels[target[0] :] == rule.pad).all()


def test_parts_of_a_filled_square_are_parts_of_the_square_around_the_image() -> None:
    assert EDGES.frame(480, 640) == STRETCH.frame(480, 640) == (480, 640)
    assert SQUARE.frame(480, 640) == (640, 640)
    assert SQUARE.frame(640, 480) == (640, 640)


@pytest.mark.parametrize("shape", [(480, 640), (300, 1000), (77, 500), (333, 334)])
def test_sides_are_rounded_down_to_a_multiple_as_transformers_does(shape: tuple[int, int]) -> None:
    rule = ImageRule("edges", (64, 160), multiple=16)
    assert rule.target(*shape) == get_size_with_aspect_ratio_yolos(shape, 64, 160)
    assert rule.target(1, 5000) == (16, 160)  # never 0


def test_other_edges_are_refused_where_a_model_takes_one_size() -> None:
    assert EDGES.with_edges((32, 64)).size == (32, 64)
    assert STRETCH.with_edges(None) is STRETCH
    with pytest.raises(Refused, match=r"image_size cannot be chosen: the model takes images of 64 x 96 pixels"):
        STRETCH.with_edges((32, 64))
