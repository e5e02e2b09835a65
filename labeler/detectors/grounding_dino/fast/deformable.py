"""Deformable attention: one product gives offsets and weights, then the sampler, then the output product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labeler.detectors.grounding_dino.fast.kernels import Kernels
from labeler.detectors.grounding_dino.fast.layers import Linear, unflatten
from labeler.detectors.grounding_dino.fast.sampling import Grid


@dataclass(frozen=True)
class Deformable:
    """One deformable attention."""

    value: Linear
    raw: Linear  # d -> 3 heads levels points, in planes: all x, all y, all weights
    out: Linear
    heads: int
    points: int  # of each level

    @staticmethod
    def of(module: Any, dtype: torch.dtype) -> Deformable:
        heads, offsets = module.n_heads, module.sampling_offsets

        def planes(tensor: Tensor) -> Tensor:  # (heads levels points 2, ...) -> (2 heads levels points, ...)
            return unflatten(tensor.detach(), 0, (-1, 2)).transpose(0, 1).flatten(0, 1)

        weight = torch.cat([planes(offsets.weight), module.attention_weights.weight.detach()])
        bias = torch.cat([planes(offsets.bias), module.attention_weights.bias.detach()])
        return Deformable(
            Linear.of(module.value_proj, dtype),
            Linear(weight.to(dtype), bias.to(dtype)),
            Linear.of(module.output_proj, dtype),
            heads,
            module.n_points,
        )

    def __call__(self, placed: Tensor, source: Tensor, references: Tensor, grid: Grid, kernels: Kernels) -> Tensor:
        """Return (batch, queries, d).

        Args:
            placed: (batch, queries, d), position embeddings added.
            source: (batch, positions, d), what is sampled from.
            references: (batch or 1, queries, 2 or 4) float32.
        """
        values = unflatten(self.value(source), -1, (self.heads, -1))
        raw = unflatten(self.raw(placed), -1, (3, self.heads, -1))
        return self.out(kernels.sample(values, raw, references, grid))
