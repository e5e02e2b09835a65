"""Image-text fusion with the projections over the image positions absorbed into the few text tokens.

The head of the fusion is as wide as the model, so its projections of the image (N positions) need not be computed:

    scores      (V Wq + bq)(T Wk + bk)^T  =  V (Wq K^T) + bq K^T        K = T Wk + bk, few rows
    to image    P (T Wv + bv) Wo          =  P ((T Wv + bv) Wo)
    to text     P' (V Wv' + bv') Wo'      =  (P' V)(Wv' Wo') + bv' Wo'  the rows of P' sum to 1

Both directions read the same scores: P is their softmax over the tokens, P' the one over the positions. Adding bq K^T,
the same for all positions, does not change P'. transformers subtracts the maximum of the whole batch and cuts off at
-50000, which a softmax does not notice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labeler.detectors.grounding_dino.fast.kernels import Kernels, LayerNorm
from labeler.detectors.grounding_dino.fast.layers import Linear, unflatten

_PART = 2.0**-5  # exact in every dtype


@dataclass(frozen=True)
class FusionLayer:
    """One fusion layer; h heads, model width d."""

    norm_vision: LayerNorm
    norm_text: LayerNorm
    key: Linear  # d -> h d
    value: Linear  # d -> h d
    absorbed_query: Tensor  # (h, d, d): scale Wq
    query_bias: Tensor  # (h, d): scale bq
    absorbed_out: Tensor  # (h, d, d): Wo with the gate of the image
    out_bias: Tensor  # (d,)
    absorbed_value: Tensor  # (h, d, d): Wv' Wo' with the gate of the text
    text_bias: Tensor  # (d,)

    @staticmethod
    def of(layer: Any, dtype: torch.dtype) -> FusionLayer:
        """Over a transformers fusion layer; the products are made in float64, once."""
        attn, heads = layer.attn, layer.attn.num_heads

        def by_head(weight: Tensor) -> Tensor:  # (h width, d) -> (h, width, d)
            return unflatten(weight.detach().double(), 0, (heads, -1))

        def out_by_head(weight: Tensor) -> Tensor:  # (d, h width) -> (h, width, d)
            return unflatten(weight.detach().double().T, 0, (heads, -1))

        def kept(tensor: Tensor) -> Tensor:
            return tensor.to(dtype).contiguous()

        image_gate, text_gate = layer.vision_param.detach().double(), layer.text_param.detach().double()
        to_text = out_by_head(attn.out_text_proj.weight)
        values_bias = unflatten(attn.values_vision_proj.bias.detach().double(), 0, (heads, -1))
        text_bias = torch.einsum("hw,hwd->d", values_bias, to_text) + attn.out_text_proj.bias.double()
        return FusionLayer(
            LayerNorm.of(layer.layer_norm_vision),
            LayerNorm.of(layer.layer_norm_text),
            Linear.of(attn.text_proj, dtype),
            Linear.of(attn.values_text_proj, dtype),
            kept(by_head(attn.vision_proj.weight) * attn.scale),
            kept(unflatten(attn.vision_proj.bias.detach().double(), 0, (heads, -1)) * attn.scale),
            kept(out_by_head(attn.out_vision_proj.weight) * image_gate),
            kept(attn.out_vision_proj.bias.double() * image_gate),
            kept(torch.einsum("hwd,hwe->hde", by_head(attn.values_vision_proj.weight), to_text) * text_gate),
            kept(text_bias * text_gate),
        )

    def __call__(self, vision: Tensor, text: Tensor, padding: Tensor | None, kernels: Kernels) -> tuple[Tensor, Tensor]:
        """Return what the image saw of the text (batch, positions, d), and the text (batch, tokens, d), normalized and
        with what it saw of the image added.

        Args:
            vision: (batch, positions, d), every position real; normalized by `norm_vision`, in the dtype of products.
            text: (batch, tokens, d) float32.
            padding: (batch, tokens) bool, True for padding; None where there is none.
        """
        text = self.norm_text(text)
        heads, tokens = len(self.absorbed_query), text.shape[1]
        key, value = (
            unflatten(linear(text), -1, (heads, -1)).transpose(1, 2)  # (batch, h, tokens, width)
            for linear in (self.key, self.value)
        )
        keys = (key @ self.absorbed_query).flatten(1, 2)  # (batch, h tokens, d)
        values = (value @ self.absorbed_out).flatten(1, 2)  # (batch, h tokens, d)
        bias = (key @ self.query_bias[:, :, None]).flatten(1)  # (batch, h tokens)
        if padding is not None:
            bias = bias.masked_fill(padding.repeat(1, heads), float("-inf"))
        seen_by_vision, weights, total = kernels.look(vision, keys, values, bias, self.out_bias, heads)
        # Before it is divided this is a sum over thousands of positions, for which a half has no room: so part of it.
        unused, columns = self.text_bias[None, None], weights.transpose(1, 2)
        gathered = torch.baddbmm(unused, columns, vision, beta=0, alpha=_PART)
        rest = total[..., None].clamp(min=1.0) * _PART  # a column of padding has no sum
        gathered = (gathered / rest).to(gathered.dtype)
        seen_by_text = (unflatten(gathered, 1, (heads, tokens)) @ self.absorbed_value).sum(1) + self.text_bias
        return seen_by_vision, text + seen_by_text
