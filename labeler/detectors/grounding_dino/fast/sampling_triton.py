"""`sampling.sample` as one GPU kernel: nothing between the linear layers and the sum ever goes through memory.

Importing this needs triton, which torch's CUDA builds bring along.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from labeler.detectors.grounding_dino.fast.sampling import Grid, sample

_QUERIES = 32  # of one program


# No build of its own for multiples of 16: these numbers differ from image to image, and a build takes seconds.
@triton.jit(do_not_specialize=["queries", "positions", "reference_stride"])  # type: ignore[untyped-decorator]
def sample_kernel(  # type: ignore[no-untyped-def]
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
    """A block of queries, one head, one pair; coordinates, weights and the sum are float32.

    The loops are not unrolled: the compiler would fetch ahead for every sample, and keep it all in memory of its own
    for want of registers. Everything of a query has two axes, so that it is laid out as the channels are.
    """
    head, pair = tl.program_id(1), tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * block + tl.arange(0, block)[:, None]
    real = query < queries
    channel = tl.arange(0, width)[None, :]
    plane: tl.constexpr = heads * samples

    row = raw + pair * queries * (3 * plane) + (query * (3 * plane) + head * samples)
    logits = tl.load(row + 2 * plane + tl.arange(0, samples)[None, :], mask=real, other=0.0).to(tl.float32)
    highest = tl.max(logits, 1)[:, None]
    share = 1.0 / tl.sum(tl.exp(logits - highest), 1)[:, None]

    reference = references + pair * reference_stride + query * sides
    centre_x = tl.load(reference, mask=real, other=0.0)
    centre_y = tl.load(reference + 1, mask=real, other=0.0)
    reach_x, reach_y = centre_x, centre_y
    if sides == 4:
        reach_x = tl.load(reference + 2, mask=real, other=0.0) * (0.5 / points)
        reach_y = tl.load(reference + 3, mask=real, other=0.0) * (0.5 / points)

    source = values + (pair * positions * heads + head) * width
    found = tl.zeros((block, width), tl.float32)
    for level in range(samples // points):
        across, down = tl.load(level_widths + level * points), tl.load(level_heights + level * points)
        start = tl.load(level_starts + level * points)
        columns, lines = across.to(tl.int32), down.to(tl.int32)
        for point in range(points):
            one = level * points + point
            x = tl.load(row + one, mask=real, other=0.0).to(tl.float32)
            y = tl.load(row + (plane + one), mask=real, other=0.0).to(tl.float32)
            logit = tl.load(row + (2 * plane + one), mask=real, other=0.0).to(tl.float32)
            weight = tl.exp(logit - highest) * share
            if sides == 4:
                x, y = x * reach_x * across, y * reach_y * down
            x, y = centre_x * across - 0.5 + x, centre_y * down - 0.5 + y
            # Nothing is lost further out, and a wild offset would overflow as an integer.
            x = tl.minimum(tl.maximum(x, -2.0), across + 1.0)
            y = tl.minimum(tl.maximum(y, -2.0), down + 1.0)
            left, top = tl.floor(x), tl.floor(y)
            column, line = left.to(tl.int32), top.to(tl.int32)
            at_left = real & (column >= 0) & (column < columns)
            at_right = real & (column >= -1) & (column < columns - 1)
            at_top = (line >= 0) & (line < lines)
            at_bottom = (line >= -1) & (line < lines - 1)
            upper = source + ((start + line * columns + column) * (heads * width) + channel)
            lower = upper + columns * (heads * width)
            upper_left = tl.load(upper, mask=at_top & at_left, other=0.0).to(tl.float32)
            upper_right = tl.load(upper + heads * width, mask=at_top & at_right, other=0.0).to(tl.float32)
            lower_left = tl.load(lower, mask=at_bottom & at_left, other=0.0).to(tl.float32)
            lower_right = tl.load(lower + heads * width, mask=at_bottom & at_right, other=0.0).to(tl.float32)
            to_right, below = x - left, weight * (y - top)
            above = weight - below
            found += upper_left * (above - above * to_right)  # one by one: one instruction per corner
            found += upper_right * (above * to_right)
            found += lower_left * (below - below * to_right)
            found += lower_right * (below * to_right)

    target = out + pair * queries * (heads * width) + ((query * heads + head) * width + channel)
    tl.store(target, found.to(out.dtype.element_ty), mask=real)


def sample_triton(values: Tensor, raw: Tensor, references: Tensor, grid: Grid) -> Tensor:
    """Sample as `sampling.sample`, which runs instead if a head's width or the samples are not a power of two."""
    batch, positions, heads, width = values.shape
    queries, samples = raw.shape[1], raw.shape[-1]
    if not (_power_of_two(width) and _power_of_two(samples)):
        return sample(values, raw, references, grid)
    out = torch.empty((batch, queries, heads * width), dtype=values.dtype, device=values.device)
    references = references.contiguous()
    blocks: Any = (triton.cdiv(queries, _QUERIES), heads, batch)
    sample_kernel[blocks](
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
        enable_fp_fusion=True,  # triton's default is about to change
    )
    return out


def _power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
