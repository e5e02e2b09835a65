"""Whether the fast JPEG decoder gives Pillow's pixels on this machine: tried on drawn JPEGs before it is used.

Both are libjpeg-turbo, but each brings its own build, and another version, or one without code for this processor,
may round otherwise.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from PIL import Image as pillow

from labeler.images import headers
from labeler.images.decoding import decode
from labeler.images.fast_jpeg import FastJpeg

_SIZE = (213, 149)  # no multiple of a block, of what a vector instruction takes, or of 2, 4, 8
_TABLE_STARTS = 5  # behind a segment's marker, length and the table's number

log = logging.getLogger(__name__)


def choose_fast_jpeg(choice: str) -> FastJpeg | None:
    """Return the fast decoder for a `detect.jpeg_decoder`; None for Pillow alone.

    Args:
        choice: "auto", which takes it if it is installed and gives Pillow's pixels here, else with a warning; "pillow".
    """
    fast = FastJpeg.installed() if choice == "auto" else None
    if fast is not None and (found := disagreement(fast)):
        log.warning("Pillow decodes all JPEGs: simplejpeg %s %s", fast.version, found)
        return None
    return fast


def disagreement(fast: FastJpeg) -> str:
    """Return "" if drawn JPEGs come out as Pillow decodes them, to the bit; else what happened to the first other."""
    try:
        for name, data, factor in _drawn(fast):
            rows = fast.rows(data, _SIZE, (-(-_SIZE[0] // factor), -(-_SIZE[1] // factor)))
            if rows is None:
                return f"does not decode a JPEG of {name}"
            expected = decode(data, least_shape=partial(_smaller, factor)).pixels
            if not np.array_equal(rows[: len(expected), : expected.shape[1]], expected):
                return f"gives other pixels than Pillow for a JPEG of {name}"
    except Exception as error:  # whatever a package that does not fit raises
        return f"cannot be tried: {type(error).__name__}: {error}"
    return ""


def _smaller(factor: int, height: int, width: int) -> tuple[int, int]:
    return height // factor, width // factor


def _drawn(fast: FastJpeg) -> Iterator[tuple[str, bytes, int]]:
    """Yield (name, JPEG, how many times smaller it is decoded) of a dozen and more."""
    random = np.random.default_rng(17)
    coarse = random.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    smooth = pillow.fromarray(coarse).resize(_SIZE, pillow.Resampling.BICUBIC)
    harsh = pillow.fromarray(random.integers(0, 2, (_SIZE[1], _SIZE[0], 3), dtype=np.uint8) * np.uint8(255))
    for name in ("4:4:4", "4:2:2", "4:2:0"):
        yield name, _encoded(smooth, subsampling=name), 1
    yield "gray", _encoded(smooth.convert("L")), 1
    pixels = np.ascontiguousarray(np.asarray(smooth))
    for name in ("4:4:0", "4:1:1"):  # which Pillow does not write
        yield name, fast.module.encode_jpeg(pixels, 85, "RGB", name.replace(":", "")), 1
    yield "4:2:0, progressive", _encoded(smooth, progressive=True, quality=90), 1
    yield "gray, progressive", _encoded(smooth.convert("L"), progressive=True), 1
    yield "restart markers", _encoded(smooth, restart_marker_blocks=7), 1
    yield "little quality", _encoded(harsh, quality=3), 1
    yield "high contrast", _encoded(harsh, quality=100, subsampling=0), 1
    yield "values out of range", _out_of_range(_encoded(harsh, quality=100)), 1
    for factor in (2, 4, 8):
        yield f"1/{factor} of its size", _encoded(smooth, quality=95), factor


def _encoded(image: pillow.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _out_of_range(data: bytes) -> bytes:
    """The same JPEG with the coarsest tables, so that sums go far beyond a byte: builds differ there most."""
    coarse = bytearray(data)
    for marker, start, end in headers.jpeg_segments(data):
        if marker == 0xDB:
            first = start + _TABLE_STARTS
            coarse[first:end] = b"\xff" * (end - first)
    return bytes(coarse)
