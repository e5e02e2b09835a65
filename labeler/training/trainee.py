"""The model as a trainer needs it: the outputs of every decoder layer and of the encoder, all with gradients.

transformers' own forward pass is not enough. The boxes and logits that it hands to its loss for the encoder are
detached, or computed from the learned queries instead of the image. The proposal heads would never be trained.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from labeler.training.crops import CropClassifier
from labeler.training.dense import DenseHead


class Trainee(nn.Module):
    """A detector with the heads applied at every stage.

    Attributes:
        detector: a GroundingDinoForObjectDetection or MMGroundingDinoForObjectDetection.
    """

    def __init__(self, detector: Any, *, dense: bool = False, categories: int = 0) -> None:
        """
        Args:
            dense: with a `DenseHead`.
            categories: with a `CropClassifier` of that many; 0 for none.
        """
        super().__init__()
        self.detector = detector
        self.num_queries: int = detector.config.num_queries
        self.dense = DenseHead(detector.config.d_model) if dense else None
        channels = detector.model.backbone.conv_encoder.intermediate_channel_sizes
        self.classifier = CropClassifier(channels, categories) if categories else None
        self.level_shapes: list[tuple[int, int]] = []  # of the last forward pass
        detector.model.encoder.register_forward_pre_hook(self._note_levels, with_kwargs=True)

    def _note_levels(self, encoder: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        self.level_shapes = [(int(height), int(width)) for height, width in named["spatial_shapes_list"]]

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, token_mask: Tensor, crops: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (stages, images, queries, tokens), -inf at padding; boxes (stages, images, queries, 4); dense
        logits (images, positions, tokens), or nothing (0,) without that head.

        The stages are the decoder layers in order, then the encoder's proposals. Boxes are cxcywh in parts of the
        image.

        Args:
            pixel_values: (images, 3, h, w) normalized, of one size: never padded.
            input_ids, token_mask: (images, tokens), mask True for a token.
            crops: (crops, 3, side, side) normalized: nothing but the image backbone runs, on these, and the logits are
                (crops, categories) of the crop classifier; the others are empty. (Through this one method, because
                gradients of several workers are only added up for what goes through `forward`.)
        """
        if crops is not None:
            assert self.classifier is not None
            return self.classifier(self.detector.model.backbone.conv_encoder.model, crops), *pixel_values.new_zeros(
                2, 0
            )
        out = self.detector.model(
            pixel_values=pixel_values, input_ids=input_ids, attention_mask=token_mask.long(), return_dict=True
        )
        width = input_ids.shape[1]
        text = out.encoder_last_hidden_state_text
        logits, boxes = [], []
        for stage in range(out.intermediate_hidden_states.shape[1]):
            hidden = out.intermediate_hidden_states[:, stage]
            before = out.intermediate_reference_points[:, stage - 1] if stage else out.init_reference_points
            logits.append(self.detector.class_embed[stage](hidden, text, token_mask)[..., :width])
            change = self.detector.bbox_embed[stage](hidden)
            boxes.append((change + torch.special.logit(before, eps=1e-5)).sigmoid())
        best = torch.topk(out.enc_outputs_class.max(-1)[0], self.num_queries, dim=1)[1][..., None]  # as the model does
        logits.append(out.enc_outputs_class[..., :width].gather(1, best.expand(-1, -1, width)))
        boxes.append(out.enc_outputs_coord_logits.gather(1, best.expand(-1, -1, 4)).sigmoid())
        dense = self.dense(out.encoder_last_hidden_state_vision, text) if self.dense else text.new_zeros(0)
        return torch.stack(logits), torch.stack(boxes), dense

    def heads(self) -> nn.ModuleDict:
        """Whatever learns beside the detector."""
        found = {"dense": self.dense, "classifier": self.classifier}
        return nn.ModuleDict({name: head for name, head in found.items() if head is not None})


def use_fused_attention(detector: Any) -> None:
    """Make the fusion layers of this one model compute with `scaled_dot_product_attention`: the same
    numbers, a third less time on a CPU.

    transformers writes out the scores of every image position with every token, and clamps, masks and normalizes them
    twice. Only the weights of the attention are no longer returned; training needs none. Without dropout, which the
    published models do not use here either.
    """
    for layer in detector.model.encoder.layers:
        attention = layer.fusion_layer.attn
        if attention.dropout == 0:
            attention.forward = MethodType(_attend, attention)


def _attend(
    self: Any,
    vision_features: Tensor,
    text_features: Tensor,
    vision_attention_mask: Tensor | None = None,
    text_attention_mask: Tensor | None = None,
) -> tuple[tuple[Tensor, None], tuple[Tensor, None]]:
    """vision_features (images, positions, d), text_features (images, tokens, d); the masks are True at padding."""

    def heads(hidden: Tensor) -> Tensor:  # (images, heads, length, head width)
        return hidden.view(*hidden.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def keep(mask: Tensor | None) -> Tensor | None:
        return None if mask is None else ~mask[:, None, None, :]

    vision, text = heads(self.vision_proj(vision_features)), heads(self.text_proj(text_features))
    vision_values = heads(self.values_vision_proj(vision_features))
    text_values = heads(self.values_text_proj(text_features))
    attend = functional.scaled_dot_product_attention
    to_vision = attend(vision, text, text_values, attn_mask=keep(text_attention_mask), scale=self.scale)
    to_text = attend(text, vision, vision_values, attn_mask=keep(vision_attention_mask), scale=self.scale)
    return (
        (self.out_vision_proj(to_vision.transpose(1, 2).flatten(2)), None),
        (self.out_text_proj(to_text.transpose(1, 2).flatten(2)), None),
    )
