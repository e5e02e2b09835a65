"""Decoded images of every mode to upright RGB rows, a strip at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image as pillow

_STRIP_BYTES = 1 << 20  # of RGB rows that are converted at a time
# How stored rows become upright; source: EXIF 2.32, tag 0x0112.
_TURNS = {
    2: pillow.Transpose.FLIP_LEFT_RIGHT,
    3: pillow.Transpose.ROTATE_180,
    4: pillow.Transpose.FLIP_TOP_BOTTOM,
    5: pillow.Transpose.TRANSPOSE,
    6: pillow.Transpose.ROTATE_270,
    7: pillow.Transpose.TRANSVERSE,
    8: pillow.Transpose.ROTATE_90,
}
_LAST_ROW_FIRST = (3, 4, 6, 7)
# Bytes per pixel at the peak of decoding an image, hashing and resizing it; measured, and rounded up. Most take 8.3,
# with 4 of the decoder's own and 3 of RGB; WebP 16.1, 32-bit samples 13.0, progressive JPEG of four inks 12.1.
WEBP_BYTES_PER_PIXEL = 17
_BYTES_PER_PIXEL, _BYTES_PER_WIDE_PIXEL, _BYTES_PER_PROGRESSIVE_PIXEL, _BYTES_PER_AVIF_PIXEL = 9, 14, 13, 11


def decoding_bytes(source: pillow.Image) -> int:
    """Return the memory that an opened image takes at the peak, while it is decoded and prepared."""
    width, height = source.size
    each = _BYTES_PER_PIXEL
    if source.format == "WEBP":
        each = WEBP_BYTES_PER_PIXEL
    elif source.mode in ("I", "F"):
        each = _BYTES_PER_WIDE_PIXEL
    elif source.info.get("progressive"):
        each = _BYTES_PER_PROGRESSIVE_PIXEL
    elif source.format == "AVIF":
        each = _BYTES_PER_AVIF_PIXEL
    return width * height * each


def upright_rgb(source: pillow.Image, orientation: int) -> npt.NDArray[np.uint8]:
    """(height, width, 3): strip by strip straight into its upright place, so that no second full copy ever exists."""
    low, high = _value_range(source)
    return _placed(
        source.size,
        orientation,
        lambda top, bottom: source.crop((0, top, source.width, bottom)),
        lambda strip: _strip_rgb(strip, low, high),
    )


def upright_rows(rows: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """The same of (height, width, 3) uint8 RGB; the rows themselves where nothing is to be turned or copied."""
    if orientation not in _TURNS:
        return np.ascontiguousarray(rows)
    height, width = rows.shape[:2]
    return _placed((width, height), orientation, lambda top, bottom: pillow.fromarray(rows[top:bottom]), np.asarray)


def _placed(
    size: tuple[int, int],
    orientation: int,
    strip_of: Callable[[int, int], pillow.Image],
    as_rgb: Callable[[pillow.Image], npt.NDArray[np.uint8]],
) -> npt.NDArray[np.uint8]:
    """Turn an image of a (width, height) by strips.

    Args:
        strip_of: the rows from one to before another.
        as_rgb: of a strip that is turned.
    """
    width, height = size
    sideways = orientation >= 5
    upright = np.empty((width, height, 3) if sideways else (height, width, 3), np.uint8)
    rows = max(1, _STRIP_BYTES // (3 * width))
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        strip = strip_of(top, bottom)
        if orientation in _TURNS:
            strip = strip.transpose(_TURNS[orientation])
        first, last = (height - bottom, height - top) if orientation in _LAST_ROW_FIRST else (top, bottom)
        place = upright[:, first:last] if sideways else upright[first:last]
        place[...] = as_rgb(strip)
    return upright


def _value_range(source: pillow.Image) -> tuple[float, float]:
    """Return what becomes 0 and 255 in images with 32 bits per sample; (0, 0) in all others."""
    if source.mode not in ("I", "F"):
        return 0.0, 0.0
    values = np.asarray(source)
    finite = values[np.isfinite(values)] if source.mode == "F" else values
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    for full in _full_ranges(source):
        if low >= 0 and high <= full:
            return 0.0, full
    return low, high


def _full_ranges(source: pillow.Image) -> tuple[float, ...]:
    """Return what may be white; the first that no sample exceeds. A PNM's header says it: Pillow has scaled it to 16
    bits.
    """
    if source.mode == "F":
        return (1.0,)
    return (65535.0,) if source.format == "PPM" else (255.0, 65535.0)


def _strip_rgb(strip: pillow.Image, low: float, high: float) -> npt.NDArray[np.uint8]:
    """(rows, width, 3) or, for gray to be spread over the channels, (rows, width, 1)."""
    mode = strip.mode
    if mode.startswith("I;16"):
        return np.asarray(np.asarray(strip) >> 8, np.uint8)[..., None]
    if mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(strip, np.float64), nan=low, posinf=high, neginf=low)
        if (mode, low, high) == ("I", 0.0, 65535.0):
            return np.asarray(values // 256, np.uint8)[..., None]
        scaled = (values - low) / (high - low if high > low else 1.0) * 255.0
        return np.asarray(np.rint(scaled), np.uint8)[..., None]
    if mode in ("RGBa", "La"):  # premultiplied: the color has to be divided out before alpha can go
        strip = strip.convert({"RGBa": "RGBA", "La": "LA"}[mode])
    if mode != "RGB":
        strip.info.pop("transparency", None)  # else Pillow looks for a color to stand for "transparent"
        strip = strip.convert("RGB")
    return np.asarray(strip)
