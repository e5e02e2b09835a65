"""Encoded images and pieces of them, for the tests of decoding."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as pillow

from labeler.images import ImageError, decode

RNG = np.random.default_rng(0)
NOISE = pillow.fromarray(RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((80, 60))
ORIENTATIONS = range(1, 9)


def encoded(image: pillow.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> pillow.Exif:
    block = pillow.Exif()
    block[0x0112] = orientation
    return block


def reason(data: bytes, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    return f"{caught.value.status}: {caught.value}"


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def into_png(chunk: bytes, png: bytes) -> bytes:
    """Right after IHDR."""
    return png[:33] + chunk + png[33:]


def tiff_block(entries: list[tuple[int, int, int, int]], order: str = "<") -> bytes:
    body = b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(order + "IH", 8, len(entries)) + body + b"\0\0\0\0"


def distance(a: int, b: int) -> int:
    return ((a ^ b) & (2**64 - 1)).bit_count()
