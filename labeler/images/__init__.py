"""Encoded bytes to upright RGB pixels: formats, headers that lie, what a picture may cost."""

from labeler.byte_budget import MAX_PIXELS
from labeler.images.decoding import (
    Image,
    ImageError,
    LeastShape,
    decode,
    phash,
)

__all__ = [
    "MAX_PIXELS",
    "Image",
    "ImageError",
    "LeastShape",
    "decode",
    "phash",
]
