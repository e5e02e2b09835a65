"""Masks as Label Studio's brush writes them: thi.ng's bit-packed run lengths over rows of RGBA bytes, not COCO's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.images import MAX_PIXELS
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


def decode(rle: Any, height: int, width: int) -> Mask:
    """Return the mask that a brush wrote; a pixel is inside if its alpha is not 0.

    Raises:
        ValueError: not such run lengths, or not those of an image of this size.
    """
    is_bytes = isinstance(rle, list) and all(
        isinstance(b, int) and not isinstance(b, bool) and 0 <= b < 256 for b in rle
    )
    if not is_bytes or len(rle) < 5:
        raise ValueError("its rle is not a list of bytes")
    bits = np.unpackbits(np.array(rle, np.uint8))
    head = _Bits(bits)
    count, word = head.take(32), head.take(5) + 1
    sizes = [head.take(4) + 1 for _ in range(4)]
    if height * width > MAX_PIXELS or count != height * width * _CHANNELS or word != _VALUE_BITS:
        raise ValueError(f"it has {count:,} values of {word} bits for {height} x {width} pixels")
    inside, done = np.zeros(height * width, np.bool_), 0
    while done < count:
        repeats, length = head.take(1), head.take(sizes[head.take(2)]) + 1
        if done + length > count:
            raise ValueError("its runs are longer than the image")
        first, last = (max(0, -(-(place - _CHANNELS + 1) // _CHANNELS)) for place in (done, done + length))
        if repeats:  # pixels whose alpha, the last of their channels, is in the run
            inside[first:last] = head.take(word) > 0
        else:
            inside[first:last] = head.take_bytes(length)[first * _CHANNELS + _CHANNELS - 1 - done :: _CHANNELS] > 0
        done += length
    return Mask.of_window(inside.reshape(height, width).T, 0, 0, height=height, width=width)


class _Bits:
    """Bits that are taken from the front."""

    def __init__(self, bits: npt.NDArray[np.uint8]) -> None:
        self._bits, self._at = bits, 0

    def take(self, count: int) -> int:
        """The number in the next `count` bits."""
        return int.from_bytes(np.packbits(self._next(count)).tobytes(), "big") >> (-count % 8)

    def take_bytes(self, count: int) -> npt.NDArray[np.uint8]:
        return np.packbits(self._next(8 * count))

    def _next(self, count: int) -> npt.NDArray[np.uint8]:
        self._at += count
        if self._at > len(self._bits):
            raise ValueError("its runs end early")
        return self._bits[self._at - count : self._at]
