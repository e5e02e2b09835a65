"""Grounding DINO's forward pass in three parts, so that each is paid for once: text, image, and the pair of both.

Only transformers' own submodules compute anything here, in the order of their `GroundingDinoModel.forward` and
`GroundingDinoForObjectDetection.forward`, so the results are theirs: this is the reference engine. Two things are
added: caching (text once per chunk for the life of the detector, image once per image over all chunks), and a choice
of what may run in half precision. Coordinates never do: in half precision reference points miss the pixel grid.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from labeler.errors import Refused
from labeler.prompts.grounding_dino.tokenizer import PERIOD_ID, SEP_ID

_MOST_LEAST_SIDE = 256  # pixels; today's backbones need 1 or 32


@dataclass(frozen=True)
class TextFeatures:
    """Prompt chunks after the text encoder.

    Attributes:
        features: (chunks, tokens, d) float32.
        token_mask: (chunks, tokens) bool, True for a token, False for padding.
        self_mask: (chunks, tokens, tokens) bool, True where a token may attend: within its own phrase, or its chunk.
        position_ids: (chunks, tokens) int64, counted from each phrase's start, or its chunk's.
    """

    features: Tensor
    token_mask: Tensor
    self_mask: Tensor
    position_ids: Tensor

    def take(self, chunks: Tensor) -> TextFeatures:
        """Return the chunks at these indices, repeats allowed."""
        parts = (self.features, self.token_mask, self.self_mask, self.position_ids)
        return TextFeatures(*(part.index_select(0, chunks) for part in parts))


@dataclass(frozen=True)
class ImageFeatures:
    """Images of one size after the backbone, all feature levels flattened into one row of positions.

    Attributes:
        features: (images, positions, d) float32.
        position_embedding: (1, positions, d) float32, the same for all of them.
        mask: (images, positions) bool, True for a real position: all of them, but for images that had to be padded.
        valid_ratios: (images, levels, 2) float32, (width, height) of what is not padding; 1 where nothing is.
        level_shapes: (height, width) of each level.
        padded: whether there is padding.
    """

    features: Tensor
    position_embedding: Tensor
    mask: Tensor
    valid_ratios: Tensor
    level_shapes: tuple[tuple[int, int], ...]
    padded: bool = False

    def take(self, images: Tensor) -> ImageFeatures:
        """Return the images at these indices, repeats allowed."""
        return ImageFeatures(
            self.features.index_select(0, images),
            self.position_embedding,
            self.mask.index_select(0, images),
            self.valid_ratios.index_select(0, images),
            self.level_shapes,
            self.padded,
        )


class SplitForward:
    """The three parts over one loaded model. Inference only; use it under `torch.inference_mode()`."""

    def __init__(self, detector: Any, *, half: torch.dtype | None = None) -> None:
        """
        Args:
            detector: a float32 GroundingDinoForObjectDetection or MMGroundingDinoForObjectDetection, in eval mode.
            half: dtype of the matrix products under autocast, None for float32 throughout.
        """
        config = detector.config
        if not (config.two_stage and config.embedding_init_target and config.num_feature_levels > 1):
            raise Refused("only two-stage checkpoints with learned queries and several feature levels are supported")
        self.detector, self.model, self.config = detector, detector.model, config
        self.half = half
        # what the last forward pass read of what it keeps between forward passes; here nothing
        self.last_kept: object = None
        self.device: torch.device = next(detector.parameters()).device
        self.num_queries: int = config.num_queries
        self._phrase_masks = sys.modules[type(detector).__module__].generate_masks_with_special_tokens_and_transfer_map
        decoder = self.model.decoder
        for head in (*decoder.bbox_embed, decoder.reference_points_head):
            _keep_float32(head, self.device)

    # ---- text, once per chunk

    def encode_text(self, chunks: Sequence[Sequence[int]], *, whole: bool = False, least: int = 0) -> TextFeatures:
        """Return text features of prompt chunks, in float32.

        Args:
            chunks: token ids, [CLS] .. [SEP], each ending with `. [SEP]`: without that last `.` padding would change
                the features of the last phrase, because the mask leaves the final phrase open.
            whole: every token attends to all of its chunk, and positions are counted from the chunk's start.
            least: tokens that chunks are padded to, if none is longer.
        """
        longest = self.config.max_text_len
        for number, ids in enumerate(chunks):
            if tuple(ids[-2:]) != (PERIOD_ID, SEP_ID) or len(ids) > longest:
                raise ValueError(f"chunk {number} has to end with `. [SEP]` within {longest} tokens, got {len(ids)}")
        input_ids, token_mask = _padded(chunks, self.device, least)
        self_mask, position_ids = (
            _chunk_masks(token_mask) if whole else self._phrase_masks(input_ids, self.model.special_tokens)
        )
        with self._float32():
            features = []
            for row in range(len(chunks)):  # one at a time: this happens once, and keeps its memory small
                here = slice(row, row + 1)
                types = torch.zeros_like(input_ids[here])
                encoded = self.model.text_backbone(
                    input_ids[here], self_mask[here, None], types, position_ids[here], return_dict=True
                )
                features.append(self.model.text_projection(encoded.last_hidden_state))
        return TextFeatures(torch.cat(features), token_mask, self_mask, position_ids)

    # ---- image, once per image

    def encode_image(self, pixel_values: Tensor) -> ImageFeatures:
        """Return features of normalized images of one size, (images, 3, h, w) float32.

        A side shorter than `least_side` is padded, with zeros and a mask, as the checkpoint's processor pads.
        """
        pixel_mask = torch.ones(pixel_values[:, 0].shape, dtype=torch.long, device=self.device)
        below, beside = (max(0, self.least_side - side) for side in pixel_values.shape[-2:])
        if below or beside:
            pixel_values, pixel_mask = (
                functional.pad(each, (0, beside, 0, below)) for each in (pixel_values, pixel_mask)
            )
        maps = self._feature_maps(pixel_values, pixel_mask)
        features, positions, masks, ratios, shapes = [], [], [], [], []
        for level, feature_map in enumerate(maps):
            height, width = feature_map.shape[-2:]
            mask = functional.interpolate(pixel_mask[None].float(), size=(height, width)).to(torch.bool)[0]
            position = self.model.backbone.position_embedding(feature_map[:1], mask[:1])
            features.append(feature_map.flatten(2).transpose(1, 2))
            positions.append(position.flatten(2).transpose(1, 2) + self.model.level_embed[level].view(1, 1, -1))
            masks.append(mask.flatten(1))
            ratios.append(self.model.get_valid_ratio(mask, dtype=torch.float32))
            shapes.append((int(height), int(width)))
        return ImageFeatures(
            torch.cat(features, 1),
            torch.cat(positions, 1),
            torch.cat(masks, 1),
            torch.stack(ratios, 1),
            tuple(shapes),
            padded=bool(below or beside),
        )

    @cached_property
    def least_side(self) -> int:
        """Pixels that a side of an image needs for the backbone to run: ConvNeXt halves sides until none is left."""

        def runs(side: int) -> bool:
            empty = torch.zeros((1, 3, side, side), device=self.device)
            try:
                with self._autocast():
                    self.model.backbone.conv_encoder(empty, torch.ones_like(empty[:, 0], dtype=torch.long))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # a kernel larger than what is left of the image
                return False
            return True

        return bisect_left(range(1, _MOST_LEAST_SIDE), True, key=runs) + 1

    def _feature_maps(self, pixel_values: Tensor, pixel_mask: Tensor) -> list[Tensor]:
        """Return every level's map (images, d, height, width) in float32; the last levels stride past the backbone."""
        project = self.model.input_proj_vision
        with self._autocast():
            found = [feature_map for feature_map, _ in self.model.backbone.conv_encoder(pixel_values, pixel_mask)]
            maps = [project[level](feature_map) for level, feature_map in enumerate(found)]
            for level in range(len(found), self.config.num_feature_levels):
                maps.append(project[level](found[-1] if level == len(found) else maps[-1]))
        return [feature_map.float() for feature_map in maps]

    # ---- pair, once per (image, chunk)

    def detect(self, image: ImageFeatures, text: TextFeatures) -> tuple[Tensor, Tensor]:
        """Return token logits and boxes of (image, chunk) pairs: row i is image i with chunk i.

        Returns:
            logits (pairs, queries, tokens) float32, -inf at padding; boxes (pairs, queries, 4) float32, cxcywh in
            parts of the image.
        """
        levels = self._levels(image)
        with self._autocast():
            encoded = self.model.encoder(
                vision_features=image.features,
                vision_attention_mask=~image.mask,
                vision_position_embedding=image.position_embedding.expand_as(image.features),
                text_features=text.features,
                text_attention_mask=~text.token_mask,
                text_position_embedding=None,
                text_self_attention_masks=~text.self_mask,
                text_position_ids=text.position_ids,
                return_dict=True,
                **levels,
            )
        vision, language = encoded.last_hidden_state_vision.float(), encoded.last_hidden_state_text.float()
        with self._float32():
            first_boxes = self._select_queries(vision, language, image, text)
        queries = self.model.query_position_embeddings.weight.unsqueeze(0).repeat(len(vision), 1, 1)
        with self._autocast():
            decoded = self.model.decoder(
                inputs_embeds=queries,
                vision_encoder_hidden_states=vision,
                vision_encoder_attention_mask=image.mask,
                text_encoder_hidden_states=language,
                text_encoder_attention_mask=~text.token_mask,
                reference_points=first_boxes,
                self_attn_mask=None,
                return_dict=True,
                **levels,
            )
        with self._float32():
            return self._last_heads(decoded, first_boxes, language, text)

    def _levels(self, image: ImageFeatures) -> dict[str, Any]:
        shapes = torch.tensor(image.level_shapes, dtype=torch.long, device=self.device)
        starts = torch.cat((shapes.new_zeros((1,)), shapes.prod(1).cumsum(0)[:-1]))
        return {
            "spatial_shapes": shapes,
            "spatial_shapes_list": list(image.level_shapes),
            "level_start_index": starts,
            "valid_ratios": image.valid_ratios,
        }

    def _select_queries(self, vision: Tensor, language: Tensor, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """Return (pairs, queries, 4) in 0..1: where the positions that match some token best propose a box."""
        model = self.model
        objects, proposals = model.generate_encoder_output_proposals(vision, ~image.mask, list(image.level_shapes))
        token_scores = model.encoder_output_class_embed(objects, language, text.token_mask)
        coordinates = model.encoder_output_bbox_embed(objects) + proposals  # before the sigmoid
        best = torch.topk(token_scores.max(-1)[0], self.num_queries, dim=1)[1]
        chosen: Tensor = torch.gather(coordinates, 1, best.unsqueeze(-1).repeat(1, 1, 4)).sigmoid()
        return chosen

    def _last_heads(
        self, decoded: Any, first_boxes: Tensor, language: Tensor, text: TextFeatures
    ) -> tuple[Tensor, Tensor]:
        last = self.config.decoder_layers - 1
        hidden = decoded.intermediate_hidden_states[:, last].float()
        reference = decoded.intermediate_reference_points[:, last - 1] if last else first_boxes
        logits = self.detector.class_embed[last](hidden, language, text.token_mask)
        change = self.detector.bbox_embed[last](hidden)
        boxes = (change + torch.special.logit(reference, eps=1e-5)).sigmoid()
        return logits[..., : language.shape[1]], boxes  # the head pads to max_text_len

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None)

    def _float32(self) -> torch.autocast:
        return torch.autocast(self.device.type, enabled=False)


def _chunk_masks(token_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return (self_mask, position_ids) where every token of a chunk sees all others; padding sees itself alone."""
    itself = torch.eye(token_mask.shape[1], dtype=torch.bool, device=token_mask.device)
    self_mask = (token_mask[:, :, None] & token_mask[:, None, :]) | itself
    return self_mask, torch.arange(token_mask.shape[1], device=token_mask.device).expand(token_mask.shape)


def _padded(chunks: Sequence[Sequence[int]], device: torch.device, least: int) -> tuple[Tensor, Tensor]:
    """Return (chunks, longest) int64 token ids, 0 = [PAD] behind the end, and the mask of what is a token.

    On a GPU up to a multiple of 16: rows of any other length are slow to read, for its matrix units above all.
    """
    longest = max(least, *map(len, chunks))
    if device.type != "cpu":
        longest += -longest % 16
    ids = torch.tensor([[*chunk, *[0] * (longest - len(chunk))] for chunk in chunks], device=device)
    lengths = torch.tensor([len(chunk) for chunk in chunks], device=device)
    return ids, torch.arange(longest, device=device)[None] < lengths[:, None]


def _keep_float32(module: nn.Module, device: torch.device) -> None:
    """Make a module compute in float32 even under autocast: for heads whose output is a coordinate or its embedding."""
    if "forward" in vars(module):  # already: two engines share these modules
        return
    forward: Callable[..., Any] = module.forward

    def in_float32(hidden: Tensor) -> Any:
        with torch.autocast(device.type, enabled=False):
            return forward(hidden.float())

    module.forward = in_float32
