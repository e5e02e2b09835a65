"""`kernels.combine` as one GPU kernel: each feature is read once and written once for each copy that is wanted."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from labeler.detectors.grounding_dino.fast.kernels import Features, LayerNorm

_ROWS = 4  # of one program, one for each of its warps


@triton.jit  # type: ignore[untyped-decorator]
def _normalized(hidden, weight, bias, eps, channel, inside, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows of (rows, block) float32, of which the first `width` columns count."""
    mean = tl.sum(hidden, 1) / width
    centred = tl.where(inside, hidden - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt_rn(tl.sum(centred * centred, 1) / width + eps)
    weights = tl.load(weight + channel, mask=inside, other=0.0)
    return centred * scale[:, None] * weights + tl.load(bias + channel, mask=inside, other=0.0)


# No build of its own for multiples of 16: row counts differ from image to image, and a build takes seconds.
@triton.jit(do_not_specialize=["rows", "position_rows"])  # type: ignore[untyped-decorator]
def combine_kernel(  # type: ignore[no-untyped-def]
    full,  # (rows, width) float32
    moved,  # (rows, width)
    position,  # (position_rows, width) float32
    first_weight,  # (width,) float32
    first_bias,
    second_weight,
    second_bias,
    out,  # (rows, width) float32
    product,  # (rows, width) in the dtype of `moved`
    placed,
    rows,
    position_rows,
    first_eps,
    second_eps,
    width: tl.constexpr,
    norms: tl.constexpr,
    has_product: tl.constexpr,
    has_position: tl.constexpr,
    block: tl.constexpr,
    channels: tl.constexpr,
):
    """A block of rows; `channels` is the power of two that holds a row."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    channel = tl.arange(0, channels)[None, :]
    inside = channel < width
    real = (row < rows)[:, None] & inside
    at = row.to(tl.int64)[:, None] * width + channel
    hidden = tl.load(full + at, mask=real, other=0.0) + tl.load(moved + at, mask=real, other=0.0).to(tl.float32)
    if norms > 0:
        hidden = _normalized(hidden, first_weight, first_bias, first_eps, channel, inside, width)
    if norms > 1:
        hidden = _normalized(hidden, second_weight, second_bias, second_eps, channel, inside, width)
    tl.store(out + at, hidden, mask=real)
    if has_product:
        tl.store(product + at, hidden.to(product.dtype.element_ty), mask=real)
    if has_position:
        place = (row % position_rows)[:, None] * width + channel
        hidden += tl.load(position + place, mask=real, other=0.0)
        tl.store(placed + at, hidden.to(placed.dtype.element_ty), mask=real)


def combine_triton(
    full: Tensor, moved: Tensor, norms: tuple[LayerNorm, ...] = (), position: Tensor | None = None
) -> Features:
    """As `kernels.combine`."""
    full, moved = full.contiguous(), moved.contiguous()
    width, rows = full.shape[-1], full.numel() // full.shape[-1]
    out = torch.empty_like(full)
    product = out if moved.dtype == full.dtype else torch.empty_like(moved)
    placed = None if position is None else torch.empty_like(moved)
    positions = full if position is None else position.contiguous()
    first = norms[0] if norms else None
    second = norms[1] if len(norms) > 1 else first
    grid: Any = (triton.cdiv(rows, _ROWS),)
    combine_kernel[grid](
        full,
        moved,
        positions,
        first.weight if first else full,
        first.bias if first else full,
        second.weight if second else full,
        second.bias if second else full,
        out,
        product,
        product if placed is None else placed,
        rows,
        positions.numel() // width,
        first.eps if first else 0.0,
        second.eps if second else 0.0,
        width=width,
        norms=len(norms),
        has_product=product is not out,
        has_position=placed is not None,
        block=_ROWS,
        channels=triton.next_power_of_2(width),
        enable_fp_fusion=True,
    )
    return Features(out, product, placed)
