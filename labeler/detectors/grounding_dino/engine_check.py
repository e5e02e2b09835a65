"""Trust on real weights: one synthetic image through the fast engine and through transformers' own modules."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from labeler.detectors.agreement import FLOAT32, HALF, Agreement, Tolerance, agreement, check_picture
from labeler.detectors.grounding_dino.fast import FastForward
from labeler.detectors.grounding_dino.split_forward import ImageFeatures, SplitForward, TextFeatures
from labeler.prompts import ImageRule

_EDGES = (256, 384, 512, 800, 1200)  # shortest edges of the image; the first with enough positions for the queries
_CHANCE = 1.0  # over the root of the number: how far two parts of the same number of detections differ by chance
_LEAST_TELLING = 0.75  # of its own detections that the reference finds again; below, nothing can be said of another


@dataclass(frozen=True)
class EngineCheck(Agreement):
    """Comparison of the fast engine with the reference in float32.

    Attributes:
        passed: `matched` is within the tolerance, or as good as what transformers' own forward pass has of itself.
        theirs: what `matched` is for transformers' own forward pass, where it was asked: in half precision, or in
            float32 on features that are one rounding away. Where that differs as much, going back to it would only be
            slower.
        half: whether this is about half precision.
    """

    theirs: float | None = None
    half: bool = False

    def __str__(self) -> str:
        words = super().__str__()
        where = "in this precision its own" if self.half else "on features one rounding away its own"
        return words if self.theirs is None else f"{words}; {where} has {self.theirs:.1%}"


def check_engine(engine: FastForward, rule: ImageRule, text: TextFeatures) -> EngineCheck:
    """Compare on the first chunk; costs two forward passes of a small image, or three. Use it under
    `inference_mode`.
    """
    one = text.take(torch.zeros(1, dtype=torch.long, device=engine.device))
    half, engine.half = engine.half, None
    try:
        picture = _encode_picture(engine, rule)
        expected = SplitForward.detect(engine, picture, one)
    finally:
        engine.half = half
    tokens = one.token_mask[0]
    tolerance = FLOAT32 if half is None else HALF
    if half is not None:
        picture = _encode_picture(engine, rule)
    check = compare(expected, engine.detect(picture, one), tokens, tolerance)
    if check.passed:
        return check
    again = _one_rounding_away(picture) if half is None else picture
    theirs = compare(expected, SplitForward.detect(engine, again, one), tokens, tolerance).matched
    telling = half is not None or theirs >= _LEAST_TELLING
    as_good = 0 < check.matched >= theirs - _CHANCE / check.compared**0.5
    return replace(check, passed=as_good and telling, theirs=theirs, half=half is not None)


def _one_rounding_away(picture: ImageFeatures) -> ImageFeatures:
    """Return features that differ as those of another machine do: by about one rounding, each on its own."""
    noise = torch.randn(picture.features.shape, generator=torch.Generator().manual_seed(0)).to(picture.features)
    return replace(picture, features=picture.features * (1 + torch.finfo(torch.float32).eps * noise))


def compare(
    expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor], token_mask: Tensor, tolerance: Tolerance
) -> EngineCheck:
    """Return logits (1, queries, tokens) and boxes (1, queries, 4) cxcywh of two engines for one
    image and one chunk.
    """
    scores = [logits[0].float()[:, token_mask].sigmoid() for logits, _ in (expected, found)]
    boxes = [each[0].float() for _, each in (expected, found)]
    agreed = agreement((scores[0], boxes[0]), (scores[1], boxes[1]), tolerance)
    return EngineCheck(**vars(agreed))


def _encode_picture(engine: SplitForward, rule: ImageRule) -> ImageFeatures:
    scene = Image.fromarray(check_picture())
    for edge in _EDGES:
        pixels = np.array(scene.resize((edge * 4 // 3, edge), Image.Resampling.BILINEAR))
        batch = torch.from_numpy(pixels[None]).to(engine.device).permute(0, 3, 1, 2).float() * rule.scale
        mean, std = (torch.tensor(values, device=engine.device).view(1, 3, 1, 1) for values in (rule.mean, rule.std))
        features = engine.encode_image(((batch - mean) / std).contiguous())
        if features.features.shape[1] >= engine.num_queries:
            break
    return features
