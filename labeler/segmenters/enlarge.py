"""From a model's coarse logits to the pixels of a window of the image, without ever making the whole image's.

The same numbers as `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` of everything, cut out
afterwards, but for the order of rounding: bilinear interpolation handles rows and columns separately, and a window
needs only the few source rows and columns around it. Only numpy: this runs beside the model, on any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Stage = tuple[int, int]  # pixels before, pixels after; the one after the next starts from its first pixels
_BAND = 1 << 18  # pixels made at once, so that what lies between stays in the cache


@dataclass(frozen=True)
class _Taps:
    """For each pixel, the two it lies between: (1 - weight) * source[low] + weight * source[high]."""

    low: Ints
    high: Ints
    weight: Floats

    def apply(self, source: Floats, start: int, stop: int) -> Floats:
        """Return rows `start` to `stop` out of (rows, n)."""
        weight = self.weight[start:stop, None]
        made: Floats = source[self.low[start:stop]] * (1 - weight)
        made += source[self.high[start:stop]] * weight
        return made

    def all(self, source: Floats) -> Floats:
        return self.apply(source, 0, len(self.weight))


@dataclass(frozen=True)
class Enlarging:
    """The mapping from logits to the pixels of one image.

    Attributes:
        rows, columns: the resizes one after the other; what the next does not need is cut off between them.
    """

    rows: tuple[Stage, ...]
    columns: tuple[Stage, ...]

    def inside(self, logits: Floats, window: tuple[int, int, int, int]) -> npt.NDArray[np.bool_]:
        """Return which pixels of a window have a logit above 0.

        Args:
            logits: (rows, columns) as the model gives them.
            window: x_min, y_min, x_max, y_max in pixels of the image, whole numbers.

        Returns:
            (columns, rows) bool: columns first, as COCO counts pixels.
        """
        left, top, right, bottom = window
        first_row, row_stages = _plan(self.rows, top, bottom)
        first_column, column_stages = _plan(self.columns, left, right)
        made = np.ascontiguousarray(logits[first_row:, first_column:], np.float32)
        for taps in row_stages:
            made = taps.all(made)
        made = np.ascontiguousarray(made.T)  # (columns, rows)
        for taps in column_stages[:-1]:
            made = taps.all(made)
        found = np.empty((right - left, bottom - top), np.bool_)
        band = max(1, _BAND // max(1, bottom - top))
        for start in range(0, right - left, band):
            np.greater(column_stages[-1].apply(made, start, start + band), 0, out=found[start : start + band])
        return found


def _plan(stages: Sequence[Stage], start: int, stop: int) -> tuple[int, list[_Taps]]:
    """Return the taps of every stage for the last one's pixels `start` to `stop`, and the first source
    pixel they need.
    """
    taps: list[_Taps] = []
    for before, after in reversed(stages):
        low, high, weight = _between(before, after, start, stop)
        start, stop = int(low[0]), int(high[-1]) + 1  # rising: the first is the least
        taps.append(_Taps(low - start, high - start, weight))
    return start, taps[::-1]


def _between(before: int, after: int, start: int, stop: int) -> tuple[Ints, Ints, Floats]:
    """Low, high and weight. Torch's source positions (ATen/native/UpSample.h), in float32 as there."""
    scale = np.float32(before) / np.float32(after)
    at = (np.arange(start, stop, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    at = np.maximum(at, np.float32(0))
    low = np.minimum(at.astype(np.int64), before - 1)
    weight = np.clip(at - low.astype(np.float32), np.float32(0), np.float32(1))
    return low, np.minimum(low + 1, before - 1), weight
