"""Resizing by strips against Pillow's own resize of the whole image: equal to the bit, whatever the size and filter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from labeler.images import resizing
from labeler.images.resizing import resize_rgb

# Narrower by half and more; down and up; and what Pillow may begin with the columns of.
SHAPES = [((300, 900), size) for size in ((89, 266), (300, 450), (90, 451), (500, 30), (40, 1500), (120, 900))]
SHAPES += [((500, 300), (250, 150)), ((2000, 3), (800, 2)), ((3, 2000), (2, 800)), ((1, 2000), (7, 40))]


def noise(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Black and white dots: filters with negative weights go out of 0..255 between the passes."""
    return np.random.default_rng(height).integers(0, 2, (height, width, 3), np.uint8) * np.uint8(255)


def whole(pixels: npt.NDArray[np.uint8], height: int, width: int, resample: Image.Resampling) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize((width, height), resample))


@pytest.mark.parametrize("strip_bytes", [10_000, 500_000])  # a few rows at a time; two strips
@pytest.mark.parametrize("resample", list(Image.Resampling))
def test_strips_have_the_pixels_of_the_whole(
    resample: Image.Resampling, strip_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resizing, "_STRIP_BYTES", strip_bytes)
    for shape, (height, width) in SHAPES:
        pixels = noise(*shape)
        found = resize_rgb(pixels, height, width, resample)
        assert found.shape == (height, width, 3)
        assert np.array_equal(found, whole(pixels, height, width, resample)), (shape, height, width)


def test_a_large_photograph_takes_several_strips_and_rows_need_not_lie_together() -> None:
    pixels = noise(1500, 2000)
    assert pixels.nbytes > 4 * resizing._STRIP_BYTES
    for each in (pixels, pixels[::-1], pixels[10:, 30:-30]):
        expected = whole(np.ascontiguousarray(each), 400, 533, Image.Resampling.BILINEAR)
        assert np.array_equal(resize_rgb(each, 400, 533, Image.Resampling.BILINEAR), expected)


def test_no_copy_of_the_whole_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each copy into Pillow is of one strip."""
    copied: list[int] = []
    fromarray = Image.fromarray

    def watched(pixels: npt.NDArray[np.uint8]) -> Image.Image:
        copied.append(pixels.nbytes)
        return fromarray(pixels)

    monkeypatch.setattr(Image, "fromarray", watched)
    pixels = noise(1500, 2000)
    resize_rgb(pixels, 400, 533, Image.Resampling.BILINEAR)
    assert sum(copied) == pixels.nbytes
    assert max(copied) <= resizing._STRIP_BYTES
