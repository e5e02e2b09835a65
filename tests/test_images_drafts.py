"""Drafts: JPEGs decoded smaller."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as pillow

from labeler import images
from labeler.images import ImageError, decode
from tests.image_parts import NOISE, ORIENTATIONS, distance, encoded, exif


def smooth(width: int, height: int) -> pillow.Image:
    coarse = np.random.default_rng(5).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return pillow.fromarray(coarse).resize((width, height), pillow.Resampling.BICUBIC)


def at_least(height: int, width: int) -> images.LeastShape:
    return lambda _height, _width: (height, width)


def test_nothing_is_drafted_unless_it_is_asked_for():
    image = decode(encoded(smooth(400, 300), "JPEG"))
    assert image.full_size is None
    assert image.pixels.shape == (300, 400, 3)


@pytest.mark.parametrize(
    ("least", "decoded"),
    [
        ((300, 400), (300, 400)),
        ((151, 201), (300, 400)),
        ((150, 200), (150, 200)),
        ((75, 101), (150, 200)),  # both sides have to be large enough
        ((75, 100), (75, 100)),
        ((20, 20), (38, 50)),  # an eighth of 300 is 37.5
        ((1, 1), (38, 50)),  # never less than an eighth
        ((600, 800), (300, 400)),  # never larger
    ],
)
def test_a_jpeg_is_decoded_no_smaller_than_it_will_be_resized_to(least: tuple[int, int], decoded: tuple[int, int]):
    data = encoded(smooth(400, 300), "JPEG")
    image = decode(data, least_shape=at_least(*least))
    assert image.pixels.shape == (*decoded, 3)
    assert (image.height, image.width) == (300, 400)
    assert image.full_size == ((300, 400) if decoded != (300, 400) else None)


@pytest.mark.parametrize("progressive", [False, True])
def test_drafted_pixels_are_close_to_the_full_ones_made_smaller(progressive: bool):
    data = encoded(smooth(640, 480), "JPEG", quality=95, progressive=progressive)
    full, draft = decode(data), decode(data, least_shape=at_least(100, 100))
    smaller = pillow.fromarray(full.pixels).resize((160, 120), pillow.Resampling.BOX)
    assert np.abs(draft.pixels.astype(int) - np.asarray(smaller)).max() <= 8
    assert distance(images.phash(full.pixels), images.phash(draft.pixels)) <= 2


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_draft_is_turned_upright_and_knows_its_upright_size(orientation: int):
    asked = []

    def least_shape(height: int, width: int) -> tuple[int, int]:
        asked.append((height, width))
        return height // 4, width // 4

    data = encoded(smooth(161, 96), "JPEG", quality=95, exif=exif(orientation))
    full, draft = decode(data), decode(data, least_shape=least_shape)
    assert asked == [(full.height, full.width)] == [full.pixels.shape[:2]]
    assert (draft.orientation, draft.height, draft.width) == (orientation, full.height, full.width)
    height, width, _ = draft.pixels.shape
    assert sorted((height, width)) == [24, 40]  # 161 / 4 is 40 and a quarter, which is dropped
    smaller = pillow.fromarray(full.pixels).resize((width, height), pillow.Resampling.BOX)
    assert np.abs(draft.pixels.astype(int) - np.asarray(smaller)).mean() < 5  # of steep colors; rotated wrongly, 50


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "GIF"])
def test_only_jpegs_are_drafted(format: str):
    image = decode(encoded(NOISE, format), least_shape=at_least(5, 5))
    assert (image.full_size, image.pixels.shape) == (None, (60, 80, 3))


def test_the_size_limit_is_about_the_full_image_and_damage_stays_damage():
    data = encoded(smooth(400, 300), "JPEG")
    with pytest.raises(ImageError, match="too large: 400 x 300"):
        decode(data, max_pixels=100_000, least_shape=at_least(1, 1))
    with pytest.raises(ImageError, match="truncated JPEG"):
        decode(data[:-200], least_shape=at_least(1, 1))
