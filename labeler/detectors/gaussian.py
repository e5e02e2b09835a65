"""OWLv2's own resize, on the device: a Gaussian filter and linear interpolation of an image in its filled square.

transformers' processor takes scipy: `ndimage.gaussian_filter` with sigma (factor - 1) / 2, and `ndimage.zoom` of order
1, both mirroring at the edges of the square. Both are linear and separate by axis, so each axis is one banded matrix,
applied in blocks of rows: the whole image is never in memory in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Index = npt.NDArray[np.int64]
_ROWS = 64  # of the result, in one block


@dataclass(frozen=True)
class _Block:
    """Rows of the result, and the pixels that they are sums of; `weights` is (rows, pixels) float32."""

    rows: slice
    pixels: slice
    weights: Tensor


def resize_in_square(image: Tensor, side: int) -> Tensor:
    """Return (side, side, 3) float32, levels of 0 to 255, from an (h, w, 3) uint8 image filled up with 0 to a square.

    The image is at the square's top left. Computed in float32 where the image is.
    """
    height, width = image.shape[:2]
    square = max(height, width)
    lines = image.flatten(1)  # (h, w * 3)
    shrunk = torch.zeros(side, width * 3, device=image.device)
    for block in _blocks(height, square, side, image.device):
        torch.mm(block.weights, lines[block.pixels].float(), out=shrunk[block.rows])
    planes = shrunk.view(side, width, 3).permute(2, 0, 1).contiguous()  # (3, side, w)
    result = torch.zeros(3, side, side, device=image.device)
    for block in _blocks(width, square, side, image.device):
        result[..., block.rows] = planes[..., block.pixels] @ block.weights.T
    return result.permute(1, 2, 0)


@lru_cache(maxsize=64)  # one is up to a few MB; a dataset has few sizes that come often
def _blocks(length: int, square: int, side: int, device: torch.device) -> tuple[_Block, ...]:
    """From `length` pixels of `square` (the others are 0) to `side`; rows that see none of them are excluded."""
    index, weights = _taps(square, side)
    blocks = []
    for start in range(0, side, _ROWS):
        taps, shares = index[start : start + _ROWS], weights[start : start + _ROWS]
        first, last = int(taps.min()), min(int(taps.max()) + 1, length)
        if first >= last:
            continue
        band = np.zeros((len(taps), int(taps.max()) + 1 - first))
        np.add.at(band, (np.arange(len(taps))[:, None], taps - first), shares)
        found = torch.from_numpy(band[:, : last - first].astype(np.float32)).to(device)
        blocks.append(_Block(slice(start, start + len(taps)), slice(first, last), found))
    return tuple(blocks)


def _taps(square: int, side: int) -> tuple[Index, npt.NDArray[np.float64]]:
    """Of each pixel of the result, (side, taps): which pixels of the square it is a sum of, and with what weights."""
    factor = square / side
    sigma = max(0.0, (factor - 1) / 2)
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2) if sigma else np.ones(1)
    kernel /= kernel.sum()
    place = (np.arange(side) + 0.5) * factor - 0.5
    left = np.floor(place).astype(np.int64)
    share = (place - left)[:, None]  # of the filtered pixel to the right
    weights = (1 - share) * np.append(kernel, 0) + share * np.insert(kernel, 0, 0)
    return _mirrored(left[:, None] + np.arange(-radius, radius + 2), square), weights


def _mirrored(index: Index, square: int) -> Index:
    """Behind an edge the pixels come again in reverse, without that at the edge."""
    if square == 1:
        return np.zeros_like(index)
    index = np.abs(index) % (2 * (square - 1))
    mirrored: Index = np.minimum(index, 2 * (square - 1) - index)
    return mirrored
