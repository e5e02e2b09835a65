"""How much of what one forward pass finds in an image another finds, too.

Queries are tied to the rank of their proposal, and near-ties change ranks with the rounding, so rows are not compared
one by one: each detection of the reference looks for its like.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

_PICTURE = "check_picture.jpg"  # a synthetic scene of a dozen objects, 320 x 240
_LEAST = 100  # detections compared at least, whatever their scores
_SCORE = 0.05  # and all above this
_ROWS = 32  # compared with all others at once: 30 MB for the largest models


@dataclass(frozen=True)
class Tolerance:
    """Limits within which two detections are the same, and the share that must match.

    Attributes:
        iou, box: boxes are the same that overlap by `iou`, or whose sides differ by at most `box` of the image (the
            overlap of boxes of a pixel says nothing).
        score: largest difference of any probability.
        matched: part of the reference's detections.
    """

    iou: float
    box: float
    score: float
    matched: float


FLOAT32 = Tolerance(iou=0.99, box=1e-4, score=1e-3, matched=0.99)
HALF = Tolerance(iou=0.95, box=2e-3, score=0.02, matched=0.97)


@dataclass(frozen=True)
class Agreement:
    """Comparison of a forward pass with the reference.

    Attributes:
        compared: detections of the reference.
        matched: part of them that the other has, too.
        box_error, score_error: the largest among these, in parts of the image, and of any probability.
        passed: `matched` is within the tolerance.
    """

    compared: int
    matched: float
    box_error: float
    score_error: float
    passed: bool

    def __str__(self) -> str:
        return (
            f"{self.matched:.1%} of {self.compared} detections equal, boxes within {self.box_error:.1e}, "
            f"scores within {self.score_error:.1e}"
        )


def agreement(expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor], tolerance: Tolerance) -> Agreement:
    """Of probabilities (queries, n) float32 and boxes (queries, 4) float32 cxcywh of two forward
    passes for one image.
    """
    (scores, boxes), (other_scores, other_boxes) = expected, found
    best = scores.amax(1)
    kept = torch.argsort(best, descending=True)[: max(_LEAST, int((best >= _SCORE).sum()))]
    scores, boxes = scores[kept], boxes[kept]
    overlap = _iou(boxes, other_boxes).nan_to_num(-1.0)
    starts = range(0, len(scores), _ROWS)
    unlike = torch.cat([_largest_difference(scores[start : start + _ROWS], other_scores) for start in starts])
    unlike = unlike.nan_to_num(9.0)
    like = (overlap - unlike).argmax(1)  # several queries may share a box, and differ in their scores
    overlap, score_error = (each.gather(1, like[:, None])[:, 0] for each in (overlap, unlike))
    box_error = (boxes - other_boxes[like]).abs().amax(1)
    same = (overlap >= tolerance.iou) | (box_error <= tolerance.box)
    equal = same & (score_error <= tolerance.score)  # False where anything is NaN
    matched = float(equal.float().mean())
    box_most, score_most = (float(e[equal].max()) if equal.any() else 0.0 for e in (box_error, score_error))
    return Agreement(len(kept), matched, box_most, score_most, matched >= tolerance.matched)


def check_picture() -> npt.NDArray[np.uint8]:
    """Return (240, 320, 3) RGB: a dozen objects, the same each time."""
    data = (resources.files(__package__) / _PICTURE).read_bytes()
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def _largest_difference(scores: Tensor, others: Tensor) -> Tensor:
    """Return (n, m): the largest difference of any token's probability, of (n, tokens) and (m, tokens)."""
    return (scores[:, None] - others[None]).abs().amax(-1)


def _iou(first: Tensor, second: Tensor) -> Tensor:
    """Return (n, m) of boxes (n, 4) and (m, 4), cxcywh."""
    (low, high), (other_low, other_high) = (
        (each[:, :2] - each[:, 2:] / 2, each[:, :2] + each[:, 2:] / 2) for each in (first, second)
    )
    sides = (torch.minimum(high[:, None], other_high) - torch.maximum(low[:, None], other_low)).clamp(min=0)
    both = sides.prod(-1)
    return both / (first[:, 2:].prod(-1)[:, None] + second[:, 2:].prod(-1) - both).clamp(min=1e-12)
