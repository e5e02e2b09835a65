"""Pretrain an image backbone that starts from nothing: it names single objects, cut out of the training images.

Every published Grounding DINO starts from a backbone that was trained to classify. Inside the detector a new one learns
what things look like very slowly: the loss reaches it through layers that are as new as itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from labeler.training.losses import Targets

_HALF = 0.17  # of a crop's side, to each side of its center: where the features that name the object are read


class CropClassifier(nn.Module):
    """Category logits from the middle of every feature map. Used in training only, never saved in a checkpoint."""

    def __init__(self, channels: Sequence[int], categories: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, categories) for width in channels)

    def forward(self, backbone: Any, crops: Tensor) -> Tensor:
        """Return (crops, categories) from normalized (crops, 3, side, side): the sum over the maps."""
        logits = []
        for head, features in zip(self.heads, backbone(crops).feature_maps, strict=True):
            logits.append(head(_middle(features)))
        return torch.stack(logits).sum(0)


def cut(pixels: Tensor, targets: Targets, side: int) -> Tensor:
    """Return a square around the center of each object, at the image's own scale: (objects, 3, side, side).

    Args:
        pixels: (images, 3, h, w) normalized; outside of an image a crop is 0.
        targets: of the same images; the crops are in the order of images, and of the objects in each.
    """
    height, width = pixels.shape[-2:]
    padded = functional.pad(pixels, (side, side, side, side))
    crops = []
    for image, count in enumerate(targets.counts):
        for x, y in targets.boxes[image, :count, :2].tolist():
            left, top = round(x * width - side / 2) + side, round(y * height - side / 2) + side
            crops.append(padded[image, :, top : top + side, left : left + side])
    return torch.stack(crops) if crops else pixels.new_zeros((0, pixels.shape[1], side, side))


def crop_loss(logits: Tensor, targets: Targets, category_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over the crops that `cut` made of these targets, and the part of them that is named right.

    Args:
        logits: (objects, categories) of `CropClassifier`.
        category_ids: (categories,) int64, ascending: what the columns mean.
    """
    ids = torch.cat([row[:count] for row, count in zip(targets.category_ids, targets.counts, strict=True)])
    wanted = torch.searchsorted(category_ids, ids)
    right = (logits.argmax(-1) == wanted).float()
    number = max(1, len(wanted))  # a batch without objects teaches nothing
    return functional.cross_entropy(logits, wanted, reduction="sum") / number, right.sum() / number


def _middle(features: Tensor) -> Tensor:
    """Return (crops, channels): the mean of the positions around the center of (crops, channels, h, w)."""
    height, width = features.shape[-2:]
    rows, columns = (slice(round(n * (0.5 - _HALF)), max(1, round(n * (0.5 + _HALF)))) for n in (height, width))
    return features[:, :, rows, columns].mean((2, 3))
