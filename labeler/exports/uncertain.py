"""Boxes between two scores: too uncertain for a label, and for background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.exports.encoded import encode_image
from labeler.labels.boxes import Floats

DROP, CROWD, BLANK, LEAVE_OUT = TREATMENTS = ("drop", "crowd", "blank", "image")


@dataclass(frozen=True)
class Uncertain:
    """Boxes from a score up to their category's threshold, and their treatment.

    Attributes:
        low: the lowest score; below it a box is background.
        treatment: "drop" (background, too), "crowd" (a region to ignore, where the format has such), "blank" (painted
            over in the image's copy) or "image" (the image is excluded).
    """

    low: float
    treatment: str = DROP

    def between(self, scores: npt.NDArray[np.float32], limits: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """(n,) which boxes are uncertain; none of a category that is excluded."""
        found: npt.NDArray[np.bool_] = (scores >= np.float32(self.low)) & (scores < limits) & np.isfinite(limits)
        return found


def blank(pixels: npt.NDArray[np.uint8], extension: str, boxes: Floats, spared: Floats) -> bytes:
    """Paint the insides of `boxes` in the image's mean color, but for what is also in a `spared` box, and encode it.

    Memory: beside `pixels`, 4 bytes per pixel and the encoded image, which is less than decoding takes.

    Args:
        pixels: (height, width, 3) uint8, RGB, upright; they are changed.
        extension: of the format to encode in: "jpg", "png", "webp" or "bmp".
        boxes, spared: (n, 4) xyxy in pixels of the upright image.
    """
    _paint(pixels, boxes, spared)
    return encode_image(pixels, extension)


def _paint(pixels: npt.NDArray[np.uint8], boxes: Floats, spared: Floats) -> None:
    """Its one mask is gone when the image is encoded."""
    painted = np.zeros(pixels.shape[:2], np.bool_)
    for value, corners in ((True, boxes), (False, spared)):
        for left, top, right, bottom in np.clip(corners, 0, None):
            painted[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = value
    color = np.round(pixels.reshape(-1, 3).mean(0)).astype(np.uint8)
    np.copyto(pixels, color, where=painted[..., None])  # as an index the mask would become 16 bytes per pixel
