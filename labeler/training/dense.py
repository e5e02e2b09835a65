"""A second teacher for the image features: every position inside an object is asked for the object's words.

One-to-one matching shows the features one query an object, which is little when nothing is pretrained. This head reads
the encoder's output, is used in training only and never saved in a checkpoint. (One-to-many supervision beside the
matched one, as in Co-DETR, arXiv:2211.12860.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labeler.training.losses import Targets, focal_loss

_CENTRAL = 0.25  # of a box's size, to each side of its center: shapes need not fill their corners


class DenseHead(nn.Module):
    """Token logits of every position of every level."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.project = nn.Linear(d_model, d_model)
        self.bias = nn.Parameter(torch.tensor(-math.log(99)))  # nearly every answer is no: start at a probability of 1%

    def forward(self, vision: Tensor, text: Tensor) -> Tensor:
        """Return (images, positions, tokens) from (images, positions, d) and (images, tokens, d)."""
        logits: Tensor = self.project(vision) @ text.transpose(1, 2) / math.sqrt(vision.shape[-1]) + self.bias
        return logits


def dense_loss(
    logits: Tensor, token_mask: Tensor, level_shapes: Sequence[tuple[int, int]], targets: Targets, alpha: float
) -> Tensor:
    """Focal loss of all positions and tokens, divided by the number of positions inside objects.

    Where boxes overlap, a position belongs to the smallest.

    Args:
        logits: (images, positions, tokens), the levels one after the other.
        level_shapes: (height, width) of each level.
    """
    centres = _centres(level_shapes).to(logits.device)  # (positions, 2)
    boxes = targets.boxes[:, None]  # (images, 1, objects, 4)
    inside = ((centres[None, :, None] - boxes[..., :2]).abs() < _CENTRAL * boxes[..., 2:]).all(-1)
    counts = torch.tensor(targets.counts, device=logits.device)
    inside &= (torch.arange(boxes.shape[2], device=logits.device) < counts[:, None])[:, None]
    area = boxes[..., 2:].prod(-1).expand(inside.shape).masked_fill(~inside, math.inf)
    owner = area.argmin(-1)  # (images, positions)
    found = inside.any(-1)
    labels = targets.tokens.gather(1, owner[..., None].expand(-1, -1, logits.shape[-1])) * found[..., None]
    loss = focal_loss(logits, labels, alpha).masked_fill(~token_mask[:, None], 0.0)
    return loss.sum() / found.sum().clamp(min=1)


def _centres(level_shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Return (positions, 2): x and y of each position's center in parts of the image."""
    levels = []
    for height, width in level_shapes:
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        levels.append(torch.stack((x, y), -1).reshape(-1, 2))
    return torch.cat(levels)
