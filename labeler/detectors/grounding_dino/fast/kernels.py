"""What the layers ask of a device between their matrix products: in torch's own operations here, on a GPU in kernels.

Between two products lie additions, norms, softmaxes and copies in another dtype. Each does little with much memory, so
a GPU spends more time on them than on the products unless they are one kernel (`kernels_triton`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from labeler.detectors.grounding_dino.fast.sampling import Sampler, sample


@dataclass(frozen=True)
class LayerNorm:
    """Normalization over the last axis, float32."""

    weight: Tensor
    bias: Tensor
    eps: float

    @staticmethod
    def of(module: torch.nn.LayerNorm) -> LayerNorm:
        return LayerNorm(module.weight.detach().float(), module.bias.detach().float(), module.eps)

    def __call__(self, hidden: Tensor) -> Tensor:
        return functional.layer_norm(hidden, self.weight.shape, self.weight, self.bias, self.eps)


class Features(NamedTuple):
    """Features (batch, n, d), and copies of them as products read them.

    Attributes:
        full: float32, what is added to and normalized.
        product: the same in the dtype of the products; in float32 the same tensor.
        placed: with a position embedding added, in that dtype; None where none was asked for.
    """

    full: Tensor
    product: Tensor
    placed: Tensor | None = None


def combine(full: Tensor, moved: Tensor, norms: tuple[LayerNorm, ...] = (), position: Tensor | None = None) -> Features:
    """Return a residual connection and what follows it up to the next products.

    Args:
        full: (batch, n, d) float32.
        moved: (batch, n, d), what is added to it, in the dtype of the products; may be used up.
        norms: applied one after the other, two at most.
        position: (batch or 1, n, d) float32, for `placed`.
    """
    out = torch.add(full, moved, out=moved if moved.dtype == full.dtype else None)
    for norm in norms:
        out = norm(out)
    placed = None if position is None else (out + position).to(moved.dtype)
    return Features(out, out.to(moved.dtype), placed)


def look(
    vision: Tensor, keys: Tensor, values: Tensor, bias: Tensor, out_bias: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what positions see of tokens, and how much each position counts for each token.

    Args:
        vision: (batch, positions, d).
        keys, values: (batch, heads tokens, d).
        bias: (batch, heads tokens), added to the scores; -inf for padding.
        out_bias: (d,), added to what is seen.

    Returns:
        (batch, positions, d); the weights and their sums, as of `two_softmaxes`.
    """
    scores = torch.baddbmm(bias[:, None], vision, keys.transpose(1, 2))  # (batch, positions, heads tokens)
    over_tokens, weights, total = two_softmaxes(scores, heads)
    return torch.baddbmm(out_bias[None, None], over_tokens, values), weights, total


def two_softmaxes(scores: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the softmax of scores over the tokens of each head, and the one over the positions but for its division.

    A softmax along the positions' axis is slow on every device, so it is written out, and its division left to where
    there is less to divide.

    Args:
        scores: (batch, positions, heads tokens), used up; -inf throughout in a column that is padding.

    Returns:
        (batch, positions, heads tokens) in the dtype of the scores, twice; (batch, heads tokens) float32, the second's
        sums over the positions, at least 1 but in a column of padding, where the second is 0.
    """
    grouped: Tensor = scores.unflatten(-1, (heads, -1))  # type: ignore[no-untyped-call]
    over_tokens = torch.softmax(grouped, -1).flatten(2)  # sums in float32 in any dtype
    highest = scores.amax(1, keepdim=True)
    highest = highest.masked_fill(highest == float("-inf"), 0.0)
    weights = scores.sub_(highest).exp_()
    return over_tokens, weights, weights.sum(1, dtype=torch.float32)


@dataclass(frozen=True)
class Kernels:
    """One way to do what lies between the products; all of them give the same but for rounding."""

    sample: Sampler
    combine: Callable[[Tensor, Tensor, tuple[LayerNorm, ...], Tensor | None], Features]
    look: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]]


PLAIN = Kernels(sample, combine, look)


def kernels_for(device: torch.device) -> tuple[Kernels, ...]:
    """Return the best first: on a GPU triton's, where triton is there (torch's CUDA builds bring it along)."""
    if device.type != "cuda":
        return (PLAIN,)
    try:
        from labeler.detectors.grounding_dino.fast.kernels_triton import TRITON
    except Exception:  # not there, or there and broken, which an import may say in any way
        return (PLAIN,)
    return TRITON, PLAIN
