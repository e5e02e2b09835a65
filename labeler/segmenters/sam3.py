"""SAM 3 as a segmenter: it is asked for the names of an image's boxes alone, and draws what it finds in their places.

The other models of the family draw whatever a box surrounds. This one looks for a phrase, and its mask is that of the
box it finds itself; so it serves its own boxes, and those of any detector whose names it understands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from labeler.detectors.network import Rows, Setup
from labeler.detectors.sam3.network import Sam3Network
from labeler.labels.boxes import iou
from labeler.prompts import ImageRule
from labeler.prompts.sam3.plan import PhrasePasses

LEAST_IOU = 0.5  # of a box with the one whose mask it gets
_NOTHING = -1.0  # a logit outside of every mask


@dataclass(frozen=True)
class Sam3Embedding:
    """One image after the vision encoder: every level that masks are drawn from, and what boxes are found on."""

    levels: tuple[Tensor, ...]
    found_on: Rows


class Sam3Forward:
    """The counterpart of `SamForward` for SAM 3, over a loaded `Sam3Model`. Use it under `torch.inference_mode()`."""

    def __init__(self, model: Any, plan: PhrasePasses, *, half: torch.dtype | None = None) -> None:
        """
        Args:
            model: float32, in eval mode.
            plan: the phrases of the categories whose boxes get masks.
            half: dtype of the matrix products under autocast, None for float32 throughout.
        """
        self._side = model.config.vision_config.image_size
        setup = Setup("masks.model", ImageRule("stretch", (self._side, self._side)), half)
        self.model, self._network, self._plan = model, Sam3Network(model, plan, setup), plan
        with torch.inference_mode():
            self._text = self._network.encode_text()

    @property
    def half(self) -> torch.dtype | None:
        return self._network.half

    @half.setter
    def half(self, half: torch.dtype | None) -> None:
        self._network.half = half

    def encode(self, pixel_values: Tensor) -> Sam3Embedding:
        """Return the features of one normalized image, (1, 3, side, side) float32."""
        with self._network.autocast():
            found = self.model.get_vision_features(pixel_values)
        levels = found.fpn_hidden_states[:-1]
        return Sam3Embedding(tuple(levels), Rows((levels[-1], found.fpn_position_encoding[-2])))

    def decode(self, image: Sam3Embedding, boxes_xyxy: Tensor, category_ids: npt.ArrayLike) -> tuple[Tensor, Tensor]:
        """For each box the mask of the object that its category's phrases find there, if they find one.

        Args:
            boxes_xyxy: (n, 4) in pixels of the model's input.
            category_ids: (n,) ids of categories of the plan.

        Returns:
            logits (n, g, g) float32, above 0 inside, below 0 throughout where nothing was found; quality (n,) float32,
            the score that the object has here, 0 where there is none.
        """
        logits = torch.full((len(boxes_xyxy), *image.levels[0].shape[-2:]), _NOTHING, device=boxes_xyxy.device)
        quality = torch.zeros(len(boxes_xyxy), device=boxes_xyxy.device)
        nearest = np.full(len(boxes_xyxy), LEAST_IOU)
        boxes, ids = boxes_xyxy.cpu().numpy() / self._side, np.asarray(category_ids)
        for number, phrase in enumerate(self._plan.phrases):
            rows = np.flatnonzero(ids == phrase.category_id)
            if len(rows):
                decoded, words = self._look(image, number)
                overlap = iou(boxes[rows], decoded.boxes[0].cpu().numpy())
                query, best = overlap.argmax(1), overlap.max(1)
                better = best >= nearest[rows]
                nearest[rows[better]] = best[better]
                chosen, places = torch.from_numpy(query[better]), torch.from_numpy(rows[better])
                if len(chosen):
                    logits[places] = self._draw(image, decoded, words, chosen)
                    quality[places] = decoded.scores[0, chosen]
        return logits, quality

    def _look(self, image: Sam3Embedding, number: int) -> tuple[Any, Rows]:
        """Return what the phrase of a pass finds in the image, and the phrase's text."""
        words = self._text.take(torch.tensor([number], device=image.levels[0].device))
        return self._network.find(image.found_on, words), words

    def _draw(self, image: Sam3Embedding, found: Any, words: Rows, queries: Tensor) -> Tensor:
        """Return (k, g, g) logits of these queries' masks."""
        features, mask = words.tensors
        with self._network.autocast():
            drawn = self.model.mask_decoder(
                decoder_queries=found.queries[:, queries],
                backbone_features=list(image.levels),
                encoder_hidden_states=found.encoded,
                prompt_features=features,
                prompt_mask=mask,
            )
        masks: Tensor = drawn.pred_masks[0].float()
        return masks
