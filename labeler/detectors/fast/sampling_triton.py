"""`sampling.sample` as one GPU kernel: nothing between the linear layers and the sum ever goes through memory.

Importing this needs triton, which torch's CUDA builds bring along.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from labeler.detectors.fast.sampling import Grid, sample

_QUERIES = 32  # of one program


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    values,  # (batch, positions, heads, width)
    raw,  # (batch, queries, 3, heads, samples)
    references,  # (batch or 1, queries, sides) float32
    level_widths,  # (samples,) float32
    level_heights,  # (samples,) float32
    level_starts,  # (samples,) int32
    out,  # (batch, queries, heads, width)
    queries,
    positions,
    reference_stride,
    heads: tl.constexpr,
    samples: tl.constexpr,
    points: tl.constexpr,
    width: tl.constexpr,
    sides: tl.constexpr,
    block: tl.constexpr,
):
    """A block of queries, one head, one pair; coordinates, weights and the sum are float32."""
    head, pair = tl.program_id(1), tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * block + tl.arange(0, block)
    real = query < queries
    channel = tl.arange(0, width)

    row = raw + (pair * queries + query) * (3 * heads * samples) + head * samples
    plane = heads * samples
    every = tl.arange(0, samples)
    logits = tl.load(row[:, None] + 2 * plane + every[None, :], mask=real[:, None], other=0.0).to(tl.float32)
    highest = tl.max(logits, 1)
    total = tl.sum(tl.exp(logits - highest[:, None]), 1)

    reference = references + pair * reference_stride + query * sides
    centre_x = tl.load(reference, mask=real, other=0.0)
    centre_y = tl.load(reference + 1, mask=real, other=0.0)
    reach_x = tl.full((block,), 1.0, tl.float32)
    reach_y = tl.full((block,), 1.0, tl.float32)
    if sides == 4:
        reach_x = tl.load(reference + 2, mask=real, other=0.0) * (0.5 / points)
        reach_y = tl.load(reference + 3, mask=real, other=0.0) * (0.5 / points)

    source = values + (pair * positions * heads + head) * width
    found = tl.zeros((block, width), tl.float32)
    for one in tl.static_range(samples):
        across, down = tl.load(level_widths + one), tl.load(level_heights + one)
        start = tl.load(level_starts + one)
        offset_x = tl.load(row + one, mask=real, other=0.0).to(tl.float32)
        offset_y = tl.load(row + plane + one, mask=real, other=0.0).to(tl.float32)
        weight = tl.exp(tl.load(row + 2 * plane + one, mask=real, other=0.0).to(tl.float32) - highest) / total
        if sides == 4:
            offset_x, offset_y = offset_x * reach_x * across, offset_y * reach_y * down
        x, y = centre_x * across - 0.5 + offset_x, centre_y * down - 0.5 + offset_y
        left, top = tl.floor(x), tl.floor(y)
        for corner in tl.static_range(4):
            column, line = left + corner % 2, top + corner // 2
            share_x = x - left if corner % 2 else 1.0 - (x - left)
            share_y = y - top if corner // 2 else 1.0 - (y - top)
            inside = real & (column >= 0) & (column < across) & (line >= 0) & (line < down)
            # Made an integer only where it is inside: a wild offset would overflow.
            place = start + tl.where(inside, line * across + column, 0.0).to(tl.int32)
            at = source + place.to(tl.int64)[:, None] * (heads * width) + channel[None, :]
            seen = tl.load(at, mask=inside[:, None], other=0.0).to(tl.float32)
            found += seen * (weight * share_x * share_y)[:, None]

    target = out + ((pair * queries + query) * heads + head)[:, None] * width + channel[None, :]
    tl.store(target, found.to(out.dtype.element_ty), mask=real[:, None])


def sample_triton(values: Tensor, raw: Tensor, references: Tensor, grid: Grid) -> Tensor:
    """As `sampling.sample`, which also takes over where a head's width or the samples are no power of two."""
    batch, positions, heads, width = values.shape
    queries, samples = raw.shape[1], raw.shape[-1]
    if not (_power_of_two(width) and _power_of_two(samples)):
        return sample(values, raw, references, grid)
    out = torch.empty((batch, queries, heads * width), dtype=values.dtype, device=values.device)
    references = references.contiguous()
    blocks: Any = (triton.cdiv(queries, _QUERIES), heads, batch)
    _kernel[blocks](
        values.contiguous(),
        raw.contiguous(),
        references,
        grid.widths,
        grid.heights,
        grid.starts,
        out,
        queries,
        positions,
        references.stride(0) if len(references) > 1 else 0,
        heads=heads,
        samples=samples,
        points=grid.points,
        width=width,
        sides=references.shape[-1],
        block=_QUERIES,
    )
    return out


def _power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
