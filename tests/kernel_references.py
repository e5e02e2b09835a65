"""What the kernels are held to: transformers' sampling, and a softmax in float64."""

from __future__ import annotations

import torch
from transformers.models.grounding_dino import modeling_grounding_dino as theirs

SHAPES = ((7, 9), (4, 5), (2, 3), (1, 2))
POSITIONS = sum(h * w for h, w in SHAPES)


def by_grid_sample(values, raw, references, points):
    """transformers' sampling of the same offsets and weights, and how many samples fall outside of their level."""
    batch, levels = len(raw), raw.shape[-1] // points
    offsets = torch.stack((raw[:, :, 0], raw[:, :, 1]), -1).unflatten(3, (levels, points))
    sizes = torch.tensor([(w, h) for h, w in SHAPES], dtype=torch.float32)
    centre = references[:, :, None, None, None, :2]
    if references.shape[-1] == 2:
        places = centre + offsets / sizes[:, None]
    else:
        places = centre + offsets / points * references[:, :, None, None, None, 2:] * 0.5
    weights = raw[:, :, 2].softmax(-1).unflatten(3, (levels, points))
    attention = theirs.MultiScaleDeformableAttention()
    found = attention(
        values, torch.tensor(SHAPES), list(SHAPES), None, places.expand(batch, -1, -1, -1, -1, -1), weights, 64
    )
    return found, ((places < 0) | (places > 1)).any(-1).float().mean()


def exact_softmaxes(scores, bias, heads):
    """Over each head's tokens, with their bias, and over positions: (batch, positions, heads tokens) float64."""
    exact = scores.double()
    over_tokens = (exact + bias[:, None].double()).unflatten(-1, (heads, -1)).softmax(-1).flatten(2)
    return over_tokens, exact.softmax(1)
