"""Trust on real weights: one drawn picture through the fast engine and through transformers' own modules.

Queries are tied to the rank of their proposal, and near-ties change ranks with the rounding, so rows are not compared
one by one: each detection of the reference looks for its like.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from importlib import resources

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from labeler.detectors.grounding_dino.fast import FastForward
from labeler.detectors.grounding_dino.split_forward import ImageFeatures, SplitForward, TextFeatures
from labeler.detectors.preprocess import Preprocessing

_EDGES = (256, 384, 512, 800, 1200)  # shortest edges of the picture; the first with enough positions for the queries
_PICTURE = "check_picture.jpg"  # a drawn scene of a dozen objects, 320 x 240
_LEAST = 100  # so many detections are compared at least, however low they score
_SCORE = 0.05  # and all above this
_CHANCE = 1.0  # over the root of the number: how far two parts of the same number of detections are apart by chance
_ROWS = 32  # compared with all others at once: 30 MB for the largest models


@dataclass(frozen=True)
class Tolerance:
    """What counts as the same detection, and how many must be found again.

    Attributes:
        iou, box: boxes are the same that overlap by `iou`, or whose sides differ by at most `box` of the image (the
            overlap of boxes of a pixel says nothing).
        score: largest difference of any token's probability.
        matched: part of the reference's detections.
    """

    iou: float
    box: float
    score: float
    matched: float


FLOAT32 = Tolerance(iou=0.99, box=1e-4, score=1e-3, matched=0.99)
HALF = Tolerance(iou=0.95, box=2e-3, score=0.02, matched=0.97)


@dataclass(frozen=True)
class EngineCheck:
    """How the fast engine compares with the reference in float32.

    Attributes:
        compared: detections of the reference.
        matched: part of them that the fast engine has, too.
        box_error, score_error: the largest among these, in parts of the image, and of any token's probability.
        passed: `matched` is within the tolerance, or in half precision as good as transformers' own forward's.
        theirs: what `matched` is for transformers' own forward in half precision, where it was asked: that differs from
            float32, too, and where it does as much, going back to it would only be slower.
    """

    compared: int
    matched: float
    box_error: float
    score_error: float
    passed: bool
    theirs: float | None = None

    def __str__(self) -> str:
        words = (
            f"{self.matched:.1%} of {self.compared} detections equal, boxes within {self.box_error:.1e}, "
            f"scores within {self.score_error:.1e}"
        )
        return words if self.theirs is None else f"{words}; in this precision its own has {self.theirs:.1%}"


def check_engine(engine: FastForward, preprocessing: Preprocessing, text: TextFeatures) -> EngineCheck:
    """Compare on the first chunk; costs two forwards of a small picture. Use it under `torch.inference_mode()`."""
    one = text.take(torch.zeros(1, dtype=torch.long, device=engine.device))
    half, engine.half = engine.half, None
    try:
        picture = _encode_picture(engine, preprocessing)
        expected = SplitForward.detect(engine, picture, one)
    finally:
        engine.half = half
    tokens = one.token_mask[0]
    if half is None:
        return compare(expected, engine.detect(picture, one), tokens, FLOAT32)
    picture = _encode_picture(engine, preprocessing)
    check = compare(expected, engine.detect(picture, one), tokens, HALF)
    if check.passed:
        return check
    theirs = compare(expected, SplitForward.detect(engine, picture, one), tokens, HALF).matched
    return replace(check, passed=0 < check.matched >= theirs - _CHANCE / check.compared**0.5, theirs=theirs)


def compare(
    expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor], token_mask: Tensor, tolerance: Tolerance
) -> EngineCheck:
    """Logits (1, queries, tokens) and boxes (1, queries, 4) cxcywh of two engines for one picture and one chunk."""
    scores, other_scores = (logits[0].float()[:, token_mask].sigmoid() for logits, _ in (expected, found))
    boxes, other_boxes = (boxes[0].float() for _, boxes in (expected, found))
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
    return EngineCheck(len(kept), matched, box_most, score_most, matched >= tolerance.matched)


def _largest_difference(scores: Tensor, others: Tensor) -> Tensor:
    """(n, m): the largest difference of any token's probability, of (n, tokens) and (m, tokens)."""
    return (scores[:, None] - others[None]).abs().amax(-1)


def check_picture() -> npt.NDArray[np.uint8]:
    """(240, 320, 3) RGB: a dozen objects, the same each time."""
    data = (resources.files(__package__) / _PICTURE).read_bytes()
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def _encode_picture(engine: SplitForward, preprocessing: Preprocessing) -> ImageFeatures:
    scene = Image.fromarray(check_picture())
    for edge in _EDGES:
        pixels = np.array(scene.resize((edge * 4 // 3, edge), Image.Resampling.BILINEAR))
        batch = torch.from_numpy(pixels[None]).to(engine.device).permute(0, 3, 1, 2).float() * preprocessing.rule.scale
        mean, std = (
            torch.tensor(values, device=engine.device).view(1, 3, 1, 1)
            for values in (preprocessing.rule.mean, preprocessing.rule.std)
        )
        features = engine.encode_image(((batch - mean) / std).contiguous())
        if features.features.shape[1] >= engine.num_queries:
            break
    return features


def _iou(first: Tensor, second: Tensor) -> Tensor:
    """(n, m) of boxes (n, 4) and (m, 4), cxcywh."""
    (low, high), (other_low, other_high) = (
        (each[:, :2] - each[:, 2:] / 2, each[:, :2] + each[:, 2:] / 2) for each in (first, second)
    )
    sides = (torch.minimum(high[:, None], other_high) - torch.maximum(low[:, None], other_low)).clamp(min=0)
    both = sides.prod(-1)
    return both / (first[:, 2:].prod(-1)[:, None] + second[:, 2:].prod(-1) - both).clamp(min=1e-12)
