"""`kernels.look` in three products, and two GPU kernels that go over the scores once each."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 16  # positions at once
_TURNS = 4  # of one program, so that fewer maxima and sums are left to put together


# No build of its own for multiples of 16: positions differ from image to image. (Columns and tokens are multiples
# always.)
@triton.jit(do_not_specialize=["positions"])  # type: ignore[untyped-decorator]
def over_tokens_kernel(  # type: ignore[no-untyped-def]
    scores,  # (batch, positions, heads tokens)
    bias,  # (batch, heads tokens)
    over_tokens,  # (batch, positions, heads tokens)
    highest,  # (batch, blocks, heads tokens) float32: the highest of each block of positions
    positions,
    tokens,
    heads: tl.constexpr,
    rows: tl.constexpr,
    turns: tl.constexpr,
    block: tl.constexpr,
):
    """Some rows of one head; `block` is the power of two that holds its tokens."""
    part, head, pair = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    columns = heads * tokens
    token = tl.arange(0, block)[None, :]
    inside = token < tokens
    at_pair = pair * positions * columns + head * tokens
    column = pair * columns + head * tokens + token
    lift = tl.load(bias + column, mask=inside, other=float("-inf")).to(tl.float32)
    most = tl.full((block,), float("-inf"), tl.float32)
    for turn in range(turns):
        row = (part * turns + turn) * rows + tl.arange(0, rows)[:, None]
        real = (row < positions) & inside
        at = at_pair + row.to(tl.int64) * columns + token
        score = tl.load(scores + at, mask=real, other=float("-inf")).to(tl.float32)
        lifted = score + lift
        best = tl.max(lifted, 1)
        best = tl.where(best == float("-inf"), 0.0, best)  # a row beyond the last
        share = tl.exp(lifted - best[:, None])
        share = share / tl.maximum(tl.sum(share, 1), 1e-30)[:, None]
        tl.store(over_tokens + at, share.to(over_tokens.dtype.element_ty), mask=real)
        most = tl.maximum(most, tl.max(score, 0))
    target = highest + (pair * tl.num_programs(0) + part) * columns + head * tokens + tl.arange(0, block)
    tl.store(target, most, mask=tl.arange(0, block) < tokens)


@triton.jit(do_not_specialize=["positions"])  # type: ignore[untyped-decorator]
def over_positions_kernel(  # type: ignore[no-untyped-def]
    scores,  # (batch, positions, columns); becomes the weights
    highest,  # (batch, columns) float32
    sums,  # (batch, blocks, columns) float32: of each block of positions
    positions,
    columns,
    rows: tl.constexpr,
    turns: tl.constexpr,
    block: tl.constexpr,
):
    """Some rows of a block of columns."""
    part, pair = tl.program_id(0), tl.program_id(2).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < columns
    top = tl.load(highest + pair * columns + column, mask=inside, other=0.0)
    total = tl.zeros((block,), tl.float32)
    for turn in range(turns):
        row = (part * turns + turn) * rows + tl.arange(0, rows)[:, None]
        real = (row < positions) & inside[None, :]
        at = pair * positions * columns + row.to(tl.int64) * columns + column[None, :]
        score = tl.load(scores + at, mask=real, other=float("-inf")).to(tl.float32)
        weight = tl.exp(score - top[None, :]).to(scores.dtype.element_ty)
        tl.store(scores + at, weight, mask=real)
        total += tl.sum(weight.to(tl.float32), 0)  # of what the product will read
    target = sums + (pair * tl.num_programs(0) + part) * columns + column
    tl.store(target, total, mask=inside)


def look_triton(
    vision: Tensor, keys: Tensor, values: Tensor, bias: Tensor, out_bias: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `kernels.look`; in a column of padding the weights are anything.

    Its products have no bias: torch would first write one that all positions share to each of them. Each head's shares
    of the tokens sum to 1, so that a part of `out_bias` in every value is all of it once.
    """
    scores = torch.bmm(vision, keys.transpose(1, 2))
    over_tokens, weights, total = two_softmaxes_triton(scores, bias, heads)
    return torch.bmm(over_tokens, values + out_bias / heads), weights, total


def two_softmaxes_triton(scores: Tensor, bias: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `kernels.two_softmaxes`, with a bias (batch, heads tokens), -inf for padding, that is added over the tokens.

    The softmax over the positions of a column does not depend on it.
    """
    batch, positions, columns = scores.shape
    tokens = columns // heads
    scores = scores.contiguous()
    over_tokens = torch.empty_like(scores)
    blocks = triton.cdiv(positions, _ROWS * _TURNS)
    parts = torch.empty((batch, blocks, columns), dtype=torch.float32, device=scores.device)
    shape: dict[str, Any] = {"rows": _ROWS, "turns": _TURNS, "enable_fp_fusion": True}
    grid: Any = (blocks, heads, batch)
    over_tokens_kernel[grid](
        scores,
        bias.contiguous(),
        over_tokens,
        parts,
        positions,
        tokens,
        heads=heads,
        block=triton.next_power_of_2(tokens),
        **shape,
    )
    highest = parts.amax(1)
    width = min(256, triton.next_power_of_2(columns))
    grid = (blocks, triton.cdiv(columns, width), batch)
    over_positions_kernel[grid](scores, highest, parts, positions, columns, block=width, **shape)
    return over_tokens, scores, parts.sum(1)
