"""The loss of Grounding DINO (section 3.5 of arXiv:2303.05499): Hungarian matching, focal over tokens, L1 and GIoU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

_GAMMA = 2.0
_COST_ALPHA = 0.25  # of the matching cost, whatever the loss's own is (DETR with focal loss)
PARTS = ("loss_ce", "loss_bbox", "loss_giou")


@dataclass(frozen=True)
class Targets:
    """The objects to find in each image, padded to the image with most objects.

    Attributes:
        boxes: (images, objects, 4) float32, cxcywh in parts of the image.
        tokens: (images, objects, tokens) float32, 1 at the word tokens of the object's phrases in that image's own
            prompt.
        counts: objects of each image.
        category_ids: (images, objects) int64, 0 in the padding; only crops are named by it.
    """

    boxes: Tensor
    tokens: Tensor
    counts: tuple[int, ...]
    category_ids: Tensor = field(default_factory=lambda: torch.zeros((0, 0), dtype=torch.int64))

    def to(self, device: torch.device) -> Targets:
        return Targets(self.boxes.to(device), self.tokens.to(device), self.counts, self.category_ids.to(device))


@dataclass(frozen=True)
class LossWeights:
    """Weights of the matching cost, then of the loss; the defaults are the paper's, with 2 for classification."""

    class_cost: float = 1.0
    bbox_cost: float = 5.0
    giou_cost: float = 2.0
    focal_alpha: float = 0.25
    ce: float = 2.0
    bbox: float = 5.0
    giou: float = 2.0

    @staticmethod
    def of(config: Any) -> LossWeights:
        """Return those of a transformers model config; it has none for classification, transformers uses 2."""
        return LossWeights(
            config.class_cost,
            config.bbox_cost,
            config.giou_cost,
            config.focal_alpha,
            bbox=config.bbox_loss_coefficient,
            giou=config.giou_loss_coefficient,
        )


def detection_loss(
    logits: Tensor, boxes: Tensor, token_mask: Tensor, targets: Targets, weights: LossWeights, total_objects: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum over all stages, and each part of each stage.

    Args:
        logits: (stages, images, queries, tokens), -inf at padding.
        boxes: (stages, images, queries, 4) cxcywh in parts of the image.
        token_mask: (images, tokens) bool.
        total_objects: what the loss is divided by: objects of a step, per worker on average.

    Returns:
        parts: "loss_ce", "loss_bbox" and "loss_giou", each (stages,), without weights.
    """
    scores = logits.masked_fill(~token_mask[None, :, None], -100.0)  # finite, and a probability of 0
    stage, image, query, target = match(scores, boxes, targets, weights)
    labels = torch.zeros_like(scores)
    labels[stage, image, query] = targets.tokens[image, target]
    focal = focal_loss(scores, labels, weights.focal_alpha).masked_fill(~token_mask[None, :, None], 0.0)
    found, wanted = boxes[stage, image, query], targets.boxes[image, target]  # (matches, 4)
    distance = (found - wanted).abs().sum(-1)
    overlap = 1 - generalized_iou(found, wanted)
    zero = scores.new_zeros(len(scores))
    parts = {
        "loss_ce": focal.flatten(1).sum(1) / total_objects,
        "loss_bbox": zero.index_add(0, stage, distance) / total_objects,
        "loss_giou": zero.index_add(0, stage, overlap) / total_objects,
    }
    total = weights.ce * parts["loss_ce"] + weights.bbox * parts["loss_bbox"] + weights.giou * parts["loss_giou"]
    return total.sum(), parts


@torch.no_grad()
def match(
    scores: Tensor, boxes: Tensor, targets: Targets, weights: LossWeights
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the cheapest one-to-one assignment in each stage of each image: (stage, image, query, target) of each
    match.

    With more objects than queries the cheapest ones are matched.
    """
    probability = scores.sigmoid()
    share = targets.tokens / targets.tokens.sum(-1, keepdim=True).clamp(min=1)  # mean over the words of a phrase
    positive = _COST_ALPHA * (1 - probability) ** _GAMMA * -(probability + 1e-8).log()
    negative = (1 - _COST_ALPHA) * probability**_GAMMA * -(1 - probability + 1e-8).log()
    words = torch.einsum("siqt,iot->siqo", positive - negative, share)  # (stages, images, queries, objects)
    distance = (boxes[:, :, :, None] - targets.boxes[None, :, None]).abs().sum(-1)
    overlap = generalized_iou(boxes[:, :, :, None], targets.boxes[None, :, None])
    cost = weights.class_cost * words + weights.bbox_cost * distance - weights.giou_cost * overlap
    finite = torch.nan_to_num(cost, nan=1e9, posinf=1e9, neginf=1e9).cpu().numpy()
    found: list[tuple[int, int, Any, Any]] = []
    for stage in range(len(finite)):
        for image, objects in enumerate(targets.counts):
            query, target = linear_sum_assignment(finite[stage, image, :, :objects])
            found.append((stage, image, query, target))
    matches = np.concatenate(
        [np.stack([np.full(len(q), s), np.full(len(q), i), q, t]) for s, i, q, t in found], axis=1
    ).astype(np.int64)
    stage_, image_, query_, target_ = torch.from_numpy(matches).to(scores.device)
    return stage_, image_, query_, target_


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """GIoU of cxcywh boxes, broadcast over all but the last axis (arXiv:1902.09630)."""
    low = torch.maximum(first[..., :2] - first[..., 2:] / 2, second[..., :2] - second[..., 2:] / 2)
    high = torch.minimum(first[..., :2] + first[..., 2:] / 2, second[..., :2] + second[..., 2:] / 2)
    around_low = torch.minimum(first[..., :2] - first[..., 2:] / 2, second[..., :2] - second[..., 2:] / 2)
    around_high = torch.maximum(first[..., :2] + first[..., 2:] / 2, second[..., :2] + second[..., 2:] / 2)
    both = (high - low).clamp(min=0).prod(-1)
    union = first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - both
    around = (around_high - around_low).clamp(min=0).prod(-1)
    tiny = 1e-9
    return both / (union + tiny) - (around - union) / (around + tiny)


def focal_loss(scores: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Focal loss of every single logit (arXiv:1708.02002), not reduced."""
    probability = scores.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(scores, labels, reduction="none")
    missing = probability + labels - 2 * probability * labels  # 1 - p where it should be 1, else p
    weight = alpha * labels + (1 - alpha) * (1 - labels)
    return weight * entropy * missing**_GAMMA
