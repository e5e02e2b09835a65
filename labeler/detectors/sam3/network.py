"""SAM 3's detector part by part, so that what each part needs is computed once: text, images, and no mask at all.

Source: transformers' `Sam3Model.forward`, whose mask decoder (a third of a phrase's work) always makes every mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from labeler.detectors.network import ModelNetwork, Rows, Scored
from labeler.prompts import PromptPlan
from labeler.prompts.sam3.plan import PhrasePasses

_PHRASES_AT_ONCE = 64  # in the text encoder: some 200 MB of activations in float32


@dataclass(frozen=True)
class PhraseOutputs:
    """Detections of phrases in images; every tensor has a row per pair of them.

    Attributes:
        boxes: (pairs, queries, 4) float32, corners in parts of the model's input.
        scores: (pairs, queries) float32 in [0, 1]: that a query is what the phrase says, if anything in the image is.
        queries: (pairs, queries, width) float32, the decoder's last.
        encoded: (pairs, cells, width), the image as the phrase lets it be seen.
    """

    boxes: Tensor
    scores: Tensor
    queries: Tensor
    encoded: Tensor


class Sam3Network(ModelNetwork):
    """A `Sam3Model` with the phrases of a plan, each looked for alone."""

    boxes: ClassVar[Literal["cxcywh", "xyxy"]] = "xyxy"
    pass_parts: ClassVar[tuple[str, ...]] = ("encoder, decoder and heads",)
    plan: PhrasePasses

    @property
    def candidates(self) -> int:
        count: int = self.model.detr_decoder.query_embed.num_embeddings
        return count

    def encode_text(self) -> Rows:
        """Return (passes, tokens, width) features and (passes, tokens) bool, which of them are text.

        Padding has to be masked wherever the features are read: unmasked, it moves scores by more than another word.
        """
        ids, mask = (torch.tensor(rows, device=self.device) for rows in self.plan.padded())
        features = []
        for start in range(0, len(ids), _PHRASES_AT_ONCE):
            part = slice(start, start + _PHRASES_AT_ONCE)
            with self.autocast():
                found = self.model.get_text_features(input_ids=ids[part], attention_mask=mask[part])
            features.append(found.pooler_output.float())
        self._phrases = Rows((torch.cat(features), mask.bool()))
        return self._phrases

    def encode_names(self, plan: PromptPlan) -> Rows:
        """As of `NarrowNetwork`: no phrase is encoded again."""
        assert isinstance(plan, PhrasePasses)
        places = {phrase: place for place, phrase in enumerate(self.plan.phrases)}
        return self._phrases.take(torch.tensor([places[phrase] for phrase in plan.phrases], device=self.device))

    def encode_image(self, pixels: Tensor) -> Rows:
        """Return the one level of the backbone's features that boxes are found on, and its positions."""
        with self.autocast():
            found = self.model.get_vision_features(pixels)
        return Rows((found.fpn_hidden_states[-2], found.fpn_position_encoding[-2].expand(len(pixels), -1, -1, -1)))

    def detect(self, image: Rows, text: Rows) -> Scored:
        found = self.find(image, text)
        return Scored.of(found.scores[..., None], found.boxes)

    def find(self, image: Rows, text: Rows) -> PhraseOutputs:
        """Return what pairs of an image and a phrase hold, with what their masks can be drawn from."""
        (features, positions), (words, mask) = image.tensors, text.tensors
        with self.autocast():
            encoded = self.model.detr_encoder(
                vision_features=[features], text_features=words, vision_pos_embeds=[positions], text_mask=mask
            )
            decoded = self.model.detr_decoder(
                vision_features=encoded.last_hidden_state,
                text_features=encoded.text_features,
                vision_pos_encoding=encoded.pos_embeds_flattened,
                text_mask=mask,
                spatial_shapes=encoded.spatial_shapes,
            )
        queries = decoded.intermediate_hidden_states[-1].float()
        boxes = self._boxes(queries, decoded.reference_boxes[-1].float())
        logits = self.model.dot_product_scoring(
            decoder_hidden_states=queries[None], text_features=words, text_mask=mask
        )
        scores = logits[0, ..., 0].sigmoid() * decoded.presence_logits[-1].float().sigmoid()
        return PhraseOutputs(boxes, scores, queries, encoded.last_hidden_state)

    def _boxes(self, queries: Tensor, start: Tensor) -> Tensor:
        """Return (pairs, queries, 4) corners in parts of the input: the last layer's offsets to what
        it started from.
        """
        from transformers.models.sam3.modeling_sam3 import box_cxcywh_to_xyxy, inverse_sigmoid

        offsets = self.model.detr_decoder.box_head(queries)
        corners: Tensor = box_cxcywh_to_xyxy((inverse_sigmoid(start) + offsets).sigmoid())
        return corners
