"""transformers' own forward pass of Grounding DINO, with its own image processor: the reference of the detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from labeler.checkpoints import DetectorCheckpoint
from labeler.detectors.loading import load_model
from labeler.labels.boxes import area, clip_to_image, cxcywh_to_xyxy, iou, scale_to_pixels
from labeler.labels.detections import Detections
from labeler.prompts.grounding_dino import Prompts

BEST = 100  # detections of an image that are compared


class OwnForward:
    """One image and one chunk at a time, in float32, through nothing of labeler but the chunks.

    For vocabularies without negatives, as those of benchmarks are. A (query, category) pair is a detection; its score
    is the mean over a phrase's tokens, the best of its phrases.
    """

    def __init__(self, checkpoint: DetectorCheckpoint, prompts: Prompts, device: torch.device) -> None:
        from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
            GroundingDinoImageProcessorPil,
        )

        self._prompts, self._device = prompts, device
        self._model = load_model(checkpoint, device)
        self._processor = GroundingDinoImageProcessorPil.from_pretrained(checkpoint.folder)

    @torch.inference_mode()
    def best(self, image_rgb: npt.NDArray[np.uint8]) -> Detections:
        """Return the `BEST` detections of an upright (h, w, 3) RGB image, clipped to it."""
        pixels = torch.from_numpy(np.array(self._processor(image_rgb)["pixel_values"])).to(self._device)
        height, width = image_rgb.shape[:2]
        found = [self._of_chunk(pixels, number, height, width) for number in range(self._prompts.passes)]
        return Detections.concat(found).top(BEST)

    def _of_chunk(self, pixels: Any, number: int, height: int, width: int) -> Detections:
        chunk = self._prompts.chunks[number]
        ids = torch.tensor([chunk.input_ids], device=self._device)
        out = self._model(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids))
        tokens = out.logits[0].sigmoid().cpu().numpy()
        boxes = scale_to_pixels(cxcywh_to_xyxy(out.pred_boxes[0].cpu().numpy()), height=height, width=width)
        boxes = clip_to_image(boxes, height=height, width=width)
        scores: dict[int, Any] = {}
        for phrase in chunk.phrases:
            mean = tokens[:, list(phrase.positions)].mean(1)
            scores[phrase.category_id] = np.maximum(scores.get(phrase.category_id, 0), mean)
        parts = [
            Detections.of(boxes, of_category, np.full(len(boxes), id_), np.full(len(boxes), number))
            for id_, of_category in scores.items()
        ]
        whole = Detections.concat(parts)
        return whole[area(whole.boxes) > 0].top(BEST)


@dataclass(frozen=True)
class BoxAgreement:
    """Comparison of a run's boxes with those of transformers' own forward pass.

    Attributes:
        images, compared: how many of both.
        matched: of `compared`: another of the same category with a like score and box is there, each taken once.
        score_error, box_error: the largest among these; box errors in pixels.
    """

    images: int
    compared: int
    matched: int
    score_error: float
    box_error: float

    @property
    def part(self) -> float:
        return self.matched / self.compared if self.compared else 1.0


def compare_boxes(
    pairs: Sequence[tuple[Detections, Detections]], *, least_iou: float, score_error: float
) -> BoxAgreement:
    """Compare (expected, found) of images.

    Args:
        least_iou, score_error: what counts as the same detection.
    """
    matched, compared, scores, sides = 0, 0, [0.0], [0.0]
    for expected, found in pairs:
        left = np.ones(len(found), np.bool_)
        overlaps = iou(expected.boxes, found.boxes)
        for row in range(len(expected)):
            unlike = np.abs(found.scores - expected.scores[row])
            like = left & (found.category_ids == expected.category_ids[row]) & (unlike <= score_error)
            like &= overlaps[row] >= least_iou
            if like.any():
                place = int(np.flatnonzero(like)[np.argmin(unlike[like])])
                left[place] = False
                scores.append(float(unlike[place]))
                sides.append(float(np.abs(found.boxes[place] - expected.boxes[row]).max()))
                matched += 1
        compared += len(expected)
    return BoxAgreement(len(pairs), compared, matched, max(scores), max(sides))
