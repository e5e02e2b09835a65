"""Pixels as the bytes of an image file, as like the original as its format allows."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image as pillow

JPEG_QUALITY = 95


def encode_image(pixels: npt.NDArray[np.uint8], extension: str) -> bytes:
    """Encode; JPEG at quality 95 without subsampling, everything else without loss.

    Args:
        pixels: (height, width, 3) uint8, RGB.
        extension: of the format to encode in: "jpg", "png", "webp" or "bmp".
    """
    buffer = io.BytesIO()
    if extension == "jpg":
        pillow.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        pillow.fromarray(pixels).save(buffer, extension.upper(), **({"lossless": True} if extension == "webp" else {}))
    return buffer.getvalue()
