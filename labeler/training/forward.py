"""The model as a trainer needs it: the outputs of every decoder layer and of the encoder, all with gradients.

transformers' own forward is not enough: the boxes and logits that it hands to its loss for the encoder are detached, or
computed from the learned queries instead of the image, so the proposal heads would never be trained.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from labeler.training.dense import DenseHead


class Trainee(nn.Module):
    """A detector with the heads applied at every stage.

    Attributes:
        detector: a GroundingDinoForObjectDetection or MMGroundingDinoForObjectDetection.
    """

    def __init__(self, detector: Any, *, dense: bool = False) -> None:
        """
        Args:
            dense: with a `DenseHead`.
        """
        super().__init__()
        self.detector = detector
        self.num_queries: int = detector.config.num_queries
        self.dense = DenseHead(detector.config.d_model) if dense else None
        self.level_shapes: list[tuple[int, int]] = []  # of the last forward
        self._phrase_masks = sys.modules[type(detector).__module__].generate_masks_with_special_tokens_and_transfer_map
        detector.model.encoder.register_forward_pre_hook(self._note_levels, with_kwargs=True)

    def _note_levels(self, encoder: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        self.level_shapes = [(int(height), int(width)) for height, width in named["spatial_shapes_list"]]

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, token_mask: Tensor, dense_only: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (stages, images, queries, tokens), -inf at padding; boxes (stages, images, queries, 4); dense logits
        (images, positions, tokens), or nothing (0,) without that head.

        The stages are the decoder layers in order, then the encoder's proposals. Boxes are cxcywh in parts of the
        image.

        Args:
            pixel_values: (images, 3, h, w) normalised, of one size: never padded.
            input_ids, token_mask: (images, tokens), mask True for a token.
            dense_only: only the backbones run, and the dense head reads what the encoder would be given; logits and
                boxes are empty, (0,).
        """
        if dense_only:
            nothing = pixel_values.new_zeros(0)
            return nothing, nothing, self._before_encoder(pixel_values, input_ids)
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

    def _before_encoder(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        """Dense logits (images, positions, tokens) of the projected backbones' features."""
        assert self.dense is not None
        model = self.detector.model
        pixel_mask = torch.ones(pixel_values[:, 0].shape, dtype=torch.long, device=pixel_values.device)
        found = [each for each, _ in model.backbone.conv_encoder(pixel_values, pixel_mask)]
        maps = [model.input_proj_vision[level](each) for level, each in enumerate(found)]
        for level in range(len(found), self.detector.config.num_feature_levels):
            maps.append(model.input_proj_vision[level](found[-1] if level == len(found) else maps[-1]))
        self.level_shapes = [(int(each.shape[-2]), int(each.shape[-1])) for each in maps]
        self_mask, position_ids = self._phrase_masks(input_ids, model.special_tokens)
        types = torch.zeros_like(input_ids)
        encoded = model.text_backbone(input_ids, self_mask[:, None], types, position_ids, return_dict=True)
        text = model.text_projection(encoded.last_hidden_state)
        return self.dense(torch.cat([each.flatten(2).transpose(1, 2) for each in maps], 1), text)
