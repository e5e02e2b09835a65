"""The fast engine: encoder and decoder over (image, chunk) pairs, equal to transformers' forward but for rounding."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from labeler.detectors.cuda import to_device
from labeler.detectors.grounding_dino.fast.backbone import Backbone
from labeler.detectors.grounding_dino.fast.deformable import Deformable
from labeler.detectors.grounding_dino.fast.fusion import FusionLayer
from labeler.detectors.grounding_dino.fast.kernels import Features, Kernels, LayerNorm, kernels_for
from labeler.detectors.grounding_dino.fast.layers import Attention, FeedForward
from labeler.detectors.grounding_dino.fast.sampling import Grid, LevelShapes
from labeler.detectors.grounding_dino.split_forward import ImageFeatures, SplitForward, TextFeatures

_SHAPES = 256  # of images, whose levels are kept: 200 photographs of everyday have 68


@dataclass(frozen=True)
class _EncoderLayer:
    fusion: FusionLayer
    text_attention: Attention
    text_norm: LayerNorm
    text_feed: FeedForward
    deformable: Deformable
    norm: LayerNorm
    feed: FeedForward

    @staticmethod
    def of(layer: Any, dtype: torch.dtype) -> _EncoderLayer:
        text, vision = layer.text_enhancer_layer, layer.deformable_layer
        return _EncoderLayer(
            FusionLayer.of(layer.fusion_layer, dtype),
            Attention.of(text.self_attn, dtype),
            LayerNorm.of(text.layer_norm_before),
            FeedForward.of(text, text.activation, text.layer_norm_after, dtype),
            Deformable.of(vision.self_attn, dtype),
            LayerNorm.of(vision.self_attn_layer_norm),
            FeedForward.of(vision, vision.activation_fn, vision.final_layer_norm, dtype),
        )


@dataclass(frozen=True)
class _DecoderLayer:
    self_attention: Attention
    self_norm: LayerNorm
    text_attention: Attention
    text_norm: LayerNorm
    deformable: Deformable
    deformable_norm: LayerNorm
    feed: FeedForward

    @staticmethod
    def of(layer: Any, dtype: torch.dtype) -> _DecoderLayer:
        return _DecoderLayer(
            Attention.of(layer.self_attn, dtype),
            LayerNorm.of(layer.self_attn_layer_norm),
            Attention.of(layer.encoder_attn_text, dtype),
            LayerNorm.of(layer.encoder_attn_text_layer_norm),
            Deformable.of(layer.encoder_attn, dtype),
            LayerNorm.of(layer.encoder_attn_layer_norm),
            FeedForward.of(layer, layer.activation_fn, layer.final_layer_norm, dtype),
        )


class FastForward(SplitForward):
    """`SplitForward` with a pair's work rearranged; text is encoded by the same code as there.

    Matrix products are in `half` where that is given; features between them, box references, coordinates, proposals and
    logits are float32 always. (Features in half precision would save little time and cost far more of the detections.)
    """

    def __init__(self, detector: Any, *, half: torch.dtype | None = None, kernels: Kernels | None = None) -> None:
        super().__init__(detector, half=half)
        self.dtype = half or torch.float32
        self.kernels = kernels or kernels_for(self.device)[0]
        encoder, decoder = self.model.encoder, self.model.decoder
        self._encoder = [_EncoderLayer.of(layer, self.dtype) for layer in encoder.layers]
        self._decoder = [_DecoderLayer.of(layer, self.dtype) for layer in decoder.layers]
        self._decoder_norm = LayerNorm.of(decoder.layer_norm)
        self._sine = sys.modules[type(detector).__module__].encode_sinusoidal_position_embedding
        self._backbone = Backbone(self.model, half) if Backbone.fits(self.model) else None
        self._levels_of = lru_cache(maxsize=_SHAPES)(self._make_levels)

    def encode_image(self, pixel_values: Tensor) -> ImageFeatures:
        if self._backbone is None or min(pixel_values.shape[-2:]) < self.least_side:
            return super().encode_image(pixel_values)
        with self._autocast():
            return self._backbone(pixel_values, halved=self.half is not None)

    def detect(self, image: ImageFeatures, text: TextFeatures) -> tuple[Tensor, Tensor]:
        once_more_in_float32 = self.half is None and self.dtype != torch.float32  # of which there is no fast copy
        if once_more_in_float32 or image.padded:  # padding is rare, and not worth a fast way of its own
            return super().detect(image, text)
        width = text.token_mask.shape[1]
        text = self._trimmed(text)
        levels = self._levels_of(image.level_shapes)
        self.last_kept = (levels, self._backbone.last if self._backbone else None)
        vision, language = self._encode(image, text, levels)
        with self._float32():
            references = self._propose(vision.full, language, text, levels)
        words = language.to(self.dtype)
        hidden, references = self._decode(vision.product, words, text, references, levels)
        with self._float32():
            logits = self._logits(self.detector.class_embed[-1], hidden, language)
            logits = logits.masked_fill(~text.token_mask[:, None], float("-inf"))
            boxes = self._refine(self.detector.bbox_embed[-1], hidden, references)
        return functional.pad(logits, (0, width - logits.shape[-1]), value=float("-inf")), boxes

    def _trimmed(self, text: TextFeatures) -> TextFeatures:
        """Without the tokens that are padding in every row. Not on a GPU, which would have to be waited for."""
        if self.device.type != "cpu":
            return text
        longest = int(text.token_mask.sum(1).max())
        return TextFeatures(
            text.features[:, :longest],
            text.token_mask[:, :longest],
            text.self_mask[:, :longest, :longest],
            text.position_ids[:, :longest],
        )

    def _encode(self, image: ImageFeatures, text: TextFeatures, levels: _Levels) -> tuple[Features, Tensor]:
        language, position, kernels = text.features, image.position_embedding, self.kernels
        text_position = self._sine(text.position_ids[..., None].float(), num_pos_feats=language.shape[-1])
        padding = None if self.device.type == "cpu" and bool(text.token_mask.all()) else ~text.token_mask
        mask = text.self_mask[:, None]
        norms = [layer.fusion.norm_vision for layer in self._encoder]
        full = norms[0](image.features)
        vision = Features(full, full.to(self.dtype))
        for number, layer in enumerate(self._encoder):
            seen, language = layer.fusion(vision.product, language, padding, kernels)
            vision = kernels.combine(vision.full, seen, (), position)
            read = layer.text_attention.to_itself(language + text_position, language, mask)
            words = layer.text_feed(kernels.combine(language, read, (layer.text_norm,), None), kernels)
            language = words.full
            grid = levels.grids[layer.deformable.points]
            moved = layer.deformable(_placed(vision), vision.product, levels.centres, grid, kernels)
            vision = kernels.combine(vision.full, moved, (layer.norm,), None)
            vision = layer.feed(vision, kernels, tuple(norms[number + 1 : number + 2]))  # what the next one begins with
        return vision, language

    def _propose(self, vision: Tensor, language: Tensor, text: TextFeatures, levels: _Levels) -> Tensor:
        """Return (pairs, queries, 4) in 0..1: boxes of the positions that match some token best.

        The box head runs on these positions only, and a position's best token is found before scale and bias.
        """
        model = self.model
        candidates = vision.masked_fill(~levels.valid, 0.0)
        candidates = model.enc_output_norm(model.enc_output(candidates))
        tokens = (candidates @ language.transpose(1, 2)).masked_fill(~text.token_mask[:, None], float("-inf"))
        best = torch.topk(tokens.amax(-1), self.num_queries, dim=1)[1]
        chosen = candidates.gather(1, best[..., None].expand(-1, -1, candidates.shape[-1]))
        references: Tensor = (model.encoder_output_bbox_embed(chosen) + levels.proposals[best]).sigmoid()
        return references

    def _decode(
        self, vision: Tensor, language: Tensor, text: TextFeatures, references: Tensor, levels: _Levels
    ) -> tuple[Tensor, Tensor]:
        """Return the last layer's normalized features (pairs, queries, d) and the references (pairs, queries, 4) it
        read.

        Args:
            vision, language: in the dtype of the products.
        """
        decoder, kernels = self.model.decoder, self.kernels
        width = vision.shape[-1]
        full = self.model.query_position_embeddings.weight.expand(len(vision), -1, -1)
        hidden = Features(full, full.to(self.dtype))
        mask = text.token_mask[:, None, None]
        for number, layer in enumerate(self._decoder):
            sine = self._sine(references, num_pos_feats=width // 2)
            with self._float32():
                position = decoder.reference_points_head(sine)
            moved = layer.self_attention.to_itself(hidden.full + position, hidden.product)
            hidden = kernels.combine(hidden.full, moved, (layer.self_norm,), position)
            moved = layer.text_attention.to_others(_placed(hidden), language, mask)
            hidden = kernels.combine(hidden.full, moved, (layer.text_norm,), position)
            grid = levels.grids[layer.deformable.points]
            moved = layer.deformable(_placed(hidden), vision, references, grid, kernels)
            hidden = layer.feed(kernels.combine(hidden.full, moved, (layer.deformable_norm,), None), kernels)
            if number + 1 < len(self._decoder):
                with self._float32():
                    references = self._refine(decoder.bbox_embed[number], hidden.full, references)
        return self._decoder_norm(hidden.full), references

    def _refine(self, head: Any, hidden: Tensor, references: Tensor) -> Tensor:
        """Return (pairs, queries, 4) in 0..1: the references, moved."""
        moved: Tensor = (head(hidden) + torch.special.logit(references, eps=1e-5)).sigmoid()
        return moved

    def _logits(self, head: Any, hidden: Tensor, language: Tensor) -> Tensor:
        """Return (pairs, queries, tokens) float32; MM-Grounding-DINO scales and shifts, the original does not."""
        products = hidden @ language.transpose(1, 2)
        bias = getattr(head, "bias", None)
        return products if bias is None else products / math.sqrt(hidden.shape[-1]) + bias

    def _make_levels(self, level_shapes: LevelShapes) -> _Levels:
        modules = [layer.deformable for layer in self._encoder] + [layer.deformable for layer in self._decoder]
        points = {deformable.points for deformable in modules}
        return _Levels.of(level_shapes, points, torch.device("cpu")).to(self.device)


@dataclass(frozen=True)
class _Levels:
    """Values that depend only on the shapes of the levels.

    Attributes:
        centers: (1, positions, 2) float32, x and y of every position in parts of the image.
        proposals: (positions, 4) float32, the logits of the box that each position stands for, +inf if not valid.
        valid: (positions, 1) bool: no side of that box is within 0.01 of 0 or 1.
        grids: for each number of points that a layer samples from a level.
    """

    centres: Tensor
    proposals: Tensor
    valid: Tensor
    grids: Mapping[int, Grid]

    @staticmethod
    def of(shapes: LevelShapes, points: Collection[int], device: torch.device) -> _Levels:
        centres, sides = [], []
        for level, (height, width) in enumerate(shapes):
            y, x = torch.meshgrid(
                (torch.arange(height, device=device) + 0.5) / height,
                (torch.arange(width, device=device) + 0.5) / width,
                indexing="ij",
            )
            centres.append(torch.stack((x, y), -1).reshape(-1, 2))
            sides.append(torch.full_like(centres[-1], 0.05 * 2.0**level))
        boxes = torch.cat([torch.cat(centres), torch.cat(sides)], -1)
        valid = ((boxes > 0.01) & (boxes < 0.99)).all(-1, keepdim=True)
        proposals = torch.log(boxes / (1 - boxes)).masked_fill(~valid, float("inf"))
        grids = {number: Grid.of(shapes, number, device) for number in points}
        return _Levels(torch.cat(centres)[None], proposals, valid, grids)

    def to(self, device: torch.device) -> _Levels:
        """There, by copies that nothing waits for."""
        grids = {points: grid.to(device) for points, grid in self.grids.items()}
        centres, proposals, valid = (to_device(part, device) for part in (self.centres, self.proposals, self.valid))
        return _Levels(centres, proposals, valid, grids)


def _placed(features: Features) -> Tensor:
    assert features.placed is not None  # it was asked for
    return features.placed
