"""Encoded bytes to upright RGB pixels: formats, headers that lie, what an image may cost."""

from labeler.byte_budget import MAX_PIXELS
from labeler.images.decoding import (
    Image,
    ImageError,
    LeastShape,
    decode,
    phash,
    stored_size,
)
from labeler.images.fast_jpeg import FastJpeg, decoders_text
from labeler.images.jpeg_agreement import choose_fast_jpeg

__all__ = [
    "MAX_PIXELS",
    "FastJpeg",
    "Image",
    "ImageError",
    "LeastShape",
    "choose_fast_jpeg",
    "decode",
    "decoders_text",
    "phash",
    "stored_size",
]
