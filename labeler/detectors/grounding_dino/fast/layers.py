"""The plain parts of the layers, over the checkpoint's own weights.

Features travel in float32 (`Features`); products are in the dtype of their weights, and come out in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from labeler.detectors.grounding_dino.fast.kernels import Features, Kernels, LayerNorm

_CPU_ROWS = 384  # of a feed-forward at once: its hidden layer then stays in the cache and costs no fresh pages


def unflatten(tensor: Tensor, dim: int, sizes: tuple[int, ...]) -> Tensor:
    """`tensor.unflatten`, which torch leaves without types."""
    split: Tensor = tensor.unflatten(dim, sizes)  # type: ignore[no-untyped-call]
    return split


@dataclass(frozen=True)
class Linear:
    """A weight (out, in) and a bias (out,)."""

    weight: Tensor
    bias: Tensor

    @staticmethod
    def of(module: nn.Linear, dtype: torch.dtype) -> Linear:
        return Linear(module.weight.detach().to(dtype), module.bias.detach().to(dtype))

    @staticmethod
    def stacked(modules: list[nn.Linear], dtype: torch.dtype) -> Linear:
        """Several layers over one input as one: their outputs side by side."""
        weight = torch.cat([module.weight.detach() for module in modules])
        return Linear(weight.to(dtype), torch.cat([module.bias.detach() for module in modules]).to(dtype))

    def __call__(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias)


@dataclass(frozen=True)
class FeedForward:
    """Residual, two linear layers, normalization: LN(x + W2 f(W1 x))."""

    first: Linear
    second: Linear
    norm: LayerNorm
    activation: Callable[[Tensor], Tensor]

    @staticmethod
    def of(layer: Any, activation: nn.Module, norm: nn.LayerNorm, dtype: torch.dtype) -> FeedForward:
        # In place: the hidden layer is the largest tensor of a forward pass, eight times as wide as the model.
        act = torch.relu_ if isinstance(activation, nn.ReLU) else activation
        return FeedForward(Linear.of(layer.fc1, dtype), Linear.of(layer.fc2, dtype), LayerNorm.of(norm), act)

    def __call__(self, hidden: Features, kernels: Kernels, then: tuple[LayerNorm, ...] = ()) -> Features:
        """
        Args:
            then: a norm that follows its own, if any.
        """
        norms = (self.norm, *then)
        if hidden.full.device.type != "cpu":
            return kernels.combine(hidden.full, self.second(self._hidden(hidden.product)), norms, None)
        rows, products = hidden.full.flatten(0, -2), hidden.product.flatten(0, -2)
        out = torch.empty_like(rows)
        for start in range(0, len(rows), _CPU_ROWS):
            part = slice(start, start + _CPU_ROWS)
            torch.add(rows[part], self.second(self._hidden(products[part])), out=out[part])
        out = out.view(hidden.full.shape)
        for norm in norms:
            out = norm(out)
        return Features(out, out.to(products.dtype))

    def _hidden(self, rows: Tensor) -> Tensor:
        """f(W1 x). On a GPU a ReLU is done by the product itself, as long as torch has that."""
        fused = getattr(torch, "_addmm_activation", None) if self.activation is torch.relu_ else None
        if fused is None or rows.device.type == "cpu":
            return self.activation(self.first(rows))
        found: Tensor = fused(self.first.bias, rows.flatten(0, -2), self.first.weight.t())
        return found.view(*rows.shape[:-1], -1)


@dataclass(frozen=True)
class Attention:
    """Multi-head attention; queries and keys come from one product where they read the same input."""

    query_key: Linear
    value: Linear
    out: Linear
    heads: int

    @staticmethod
    def of(module: Any, dtype: torch.dtype) -> Attention:
        return Attention(
            Linear.stacked([module.query, module.key], dtype),
            Linear.of(module.value, dtype),
            Linear.of(module.out_proj, dtype),
            module.num_attention_heads,
        )

    def to_itself(self, placed: Tensor, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (batch, n, d): attention among `hidden`, found by `placed`, which is `hidden` with its positions.

        Args:
            mask: (batch, 1, n, n), True where one may look.
        """
        query, key = self.query_key(placed).chunk(2, -1)
        return self._attend(query, key, self.value(hidden), mask)

    def to_others(self, placed: Tensor, others: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (batch, n, d): attention of `placed` to others (batch, m, d); mask (batch, 1, 1, m)."""
        (weight, key_weight), (bias, key_bias) = self.query_key.weight.chunk(2), self.query_key.bias.chunk(2)
        query, key = Linear(weight, bias)(placed), Linear(key_weight, key_bias)(others)
        return self._attend(query, key, self.value(others), mask)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (unflatten(each, -1, (self.heads, -1)).transpose(1, 2) for each in (query, key, value))
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(found.transpose(1, 2).flatten(2))
