"""The SAM family's forward pass in two parts: the image once, then its boxes, that many at a time.

Only transformers' own submodules compute anything here, in the order of their `forward`, so the results are theirs.
Added is the choice of half precision for the matrix products; prompts and positions never are: their coordinates turn
into angles of sines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labeler.checkpoints import Checkpoint
from labeler.detectors.loading import load_model


@dataclass(frozen=True)
class Embedding:
    """One image after the image encoder.

    Attributes:
        features: (1, d, h, w).
        details: what the mask decoder takes beside them: earlier layers (SAM-HQ) or finer maps (SAM 2).
    """

    features: Tensor
    details: tuple[Tensor, ...] = ()


class SamForward:
    """The two parts over one loaded model. Inference only; use it under `torch.inference_mode()`."""

    def __init__(self, model: Any, *, half: torch.dtype | None = None) -> None:
        """
        Args:
            model: a float32 SamModel, SamHQModel or Sam2Model, in eval mode.
            half: dtype of the matrix products under autocast, None for float32 throughout.
        """
        self.model, self.half = model, half
        self.family = type(model).__name__
        self.device: torch.device = next(model.parameters()).device
        with torch.inference_mode():
            self._positions: Tensor = model.get_image_wide_positional_embeddings()  # (1, d, h, w), of every image

    def encode(self, pixel_values: Tensor) -> Embedding:
        """Return the features of one normalized image, (1, 3, side, side) float32."""
        with self._autocast():
            if self.family == "Sam2Model":
                *finer, features = self.model.get_image_embeddings(pixel_values)
                return Embedding(features, tuple(finer))
            found = self.model.vision_encoder(pixel_values)
            earlier = found.intermediate_embeddings if self.family == "SamHQModel" else ()
            return Embedding(found.last_hidden_state, tuple(earlier))

    def decode(self, image: Embedding, boxes_xyxy: Tensor, category_ids: object = None) -> tuple[Tensor, Tensor]:
        """Return one mask for each box: the model's single answer, which is meant for prompts that say enough, as a box
        does.

        Args:
            boxes_xyxy: (n, 4) in pixels of the model's input.
            category_ids: not looked at; a box says it all.

        Returns:
            logits (n, 4h, 4w) float32, above 0 inside; quality (n,) float32, the IoU the model expects.
        """
        with torch.autocast(self.device.type, enabled=False):
            sparse, dense = self.model.prompt_encoder(
                input_points=None, input_labels=None, input_boxes=boxes_xyxy[None], input_masks=None
            )
        with self._autocast():
            masks, quality = self.model.mask_decoder(
                image_embeddings=image.features,
                image_positional_embeddings=self._positions,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
                **self._beside(image.details),
            )[:2]
        return masks[0, :, 0].float(), quality[0, :, 0].float()

    def _beside(self, details: Sequence[Tensor]) -> dict[str, Any]:
        if self.family == "Sam2Model":
            return {"high_resolution_features": list(details)}
        if self.family == "SamHQModel":
            return {"intermediate_embeddings": list(details), "hq_token_only": False}
        return {}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None)


def load_segmenter(checkpoint: Checkpoint, device: torch.device) -> Any:
    """Return the checkpoint's transformers model on `device`, float32 and in eval mode. Refused as by `load_model`."""
    with _no_word_about_videos():
        return load_model(checkpoint, device, buffers=True)


@contextmanager
def _no_word_about_videos() -> Iterator[None]:
    """Silence transformers' warning about image models of video checkpoints: all published SAM 2 and 3 ones."""

    def is_other(record: logging.LogRecord) -> bool:
        videos = tuple(f"You are using a model of type `{name}_video`" for name in ("sam2", "sam3"))
        return not record.getMessage().startswith(videos)

    logger = logging.getLogger("transformers.configuration_utils")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
