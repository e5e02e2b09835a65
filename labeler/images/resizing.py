"""Pillow's resize of RGB rows, to the bit, without a copy of the whole image in Pillow's four bytes a pixel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image as pillow
from PIL import __version__ as pillow_version

_STRIP_BYTES = 1 << 20  # of RGB rows that are narrowed at a time: with Pillow's copy of them, about a core's own cache
_ACROSS_FIRST = pillow_version.split(".")[0] == "13"  # whose order of the two passes was looked at


def resize_rgb(
    pixels: npt.NDArray[np.uint8], height: int, width: int, resample: pillow.Resampling
) -> npt.NDArray[np.uint8]:
    """Return (height, width, 3) uint8 of (h, w, 3) uint8, with the values of `PIL.Image.Image.resize`.

    Pillow resizes an image that becomes narrower across, rounds to eight bits, and resizes down. So the rows can go
    through its first pass a strip at a time. At 12 megapixels the copy of the whole costs a third of the resize, mostly
    in fresh pages.
    """
    rows = max(1, _STRIP_BYTES // (3 * pixels.shape[1]))
    if rows >= len(pixels) or resample == pillow.Resampling.NEAREST or not _goes_across_first(pixels.shape, width):
        return np.asarray(pillow.fromarray(pixels).resize((width, height), resample))
    narrow = pillow.new("RGB", (width, len(pixels)), None)  # None: not cleared
    for top in range(0, len(pixels), rows):
        strip = pillow.fromarray(pixels[top : top + rows])
        narrow.paste(strip.resize((width, strip.height), resample), (0, top))
    return np.asarray(narrow.resize((width, height), resample))


def _goes_across_first(shape: tuple[int, ...], width: int) -> bool:
    """Return whether Pillow certainly resizes across first: it may begin with the columns of other images."""
    return _ACROSS_FIRST and shape[1] >= shape[0] and 2 * width <= shape[1]
