"""Masks as Label Studio's brush writes them: thi.ng's bit-packed run lengths over rows of RGBA bytes, not COCO's."""

from __future__ import annotations

import numpy as np

from labeler.labels.masks import Mask

_CHANNELS, _INSIDE = 4, 255  # red, green, blue and alpha are alike: all of them 255 inside
_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)  # a run says in two bits which of these its length has
_LONGEST = 1 << _LENGTH_BITS[-1]


def encode(mask: Mask) -> list[int]:
    """Return the bytes of a mask: 32 bits that count the values, 5 and 4 x 4 bits of sizes, then one run after another.

    A run is a bit that is 1 if it repeats one value, the size of its length, its length less 1, and the value.
    """
    pixels = mask.decode().reshape(-1)  # by rows
    edges = np.flatnonzero(np.diff(pixels)) + 1
    lengths = np.diff(edges, prepend=0, append=len(pixels)) * _CHANNELS
    bits = [f"{len(pixels) * _CHANNELS:032b}", f"{_VALUE_BITS - 1:05b}", *(f"{size - 1:04b}" for size in _LENGTH_BITS)]
    value = int(pixels[0]) * _INSIDE
    for length in lengths.tolist():
        bits.extend(_run(min(_LONGEST, length - start), value) for start in range(0, length, _LONGEST))
        value = _INSIDE - value
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _run(length: int, value: int) -> str:
    place = next(place for place, bits in enumerate(_LENGTH_BITS) if length <= 1 << bits)
    return f"1{place:02b}{length - 1:0{_LENGTH_BITS[place]}b}{value:0{_VALUE_BITS}b}"
