"""From token logits to phrases, by positive map: which tokens belong to which phrase is known, never decoded."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labeler.detectors.network import Scored
from labeler.detectors.scoring import NOBODY, max_by_group, stack
from labeler.prompts.grounding_dino import Prompts, positive_map


def phrase_table(prompts: Prompts, width: int, device: torch.device, *, score: str) -> Tensor:
    """Return what `score_phrases` needs of each chunk, padded to the largest.

    Args:
        width: tokens of the longest chunk, as in the logits.
        score: "mean" or "max" over the tokens of a phrase.

    Returns:
        For "mean" (chunks, at least phrases, width) float32, 1 / number of the phrase's tokens at each of them; for
        "max" (chunks, width) int64, the phrase each token belongs to.
    """
    weights = [positive_map(chunk, width) for chunk in prompts.chunks]
    if score == "mean":
        return stack([*weights, np.zeros((prompts.padding.phrases, width), np.float32)], 0, device)[:-1]
    owners = [np.where(each.any(0), each.argmax(0), NOBODY) for each in weights]  # `.` is nobody's
    return stack(owners, NOBODY, device)


def score_phrases(logits: Tensor, boxes: Tensor, token_mask: Tensor, table: Tensor, phrases: int) -> Scored:
    """p = sigmoid(logit) per token; the mean or max over a phrase's tokens.

    Args:
        logits: (pairs, queries, width) float32, -inf at padding.
        boxes: (pairs, queries, 4) float32, cxcywh in parts of the image.
        token_mask: (pairs, width), True for a token.
        table: the pairs' rows of `phrase_table`, which may be padded beyond the largest chunk.
        phrases: of the largest chunk.
    """
    finite = (logits.isfinite() | ~token_mask[:, None]).all(-1).all(-1) & boxes.isfinite().all(-1).all(-1)
    p = logits.sigmoid()  # first, because padding is -inf
    scores = (p @ table.transpose(1, 2))[..., :phrases] if table.dim() == 3 else max_by_group(p, table, phrases)
    return Scored(scores, boxes, finite)
