"""A small model, a vocabulary with a negative, images, and how equal two results are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from labeler import checkpoints
from labeler.detectors.batched import BatchedDetector
from labeler.detectors.grounding_dino.fast import FastForward
from labeler.detectors.grounding_dino.scratch import create_checkpoint
from labeler.labels.detections import Detections
from labeler.prompts.grounding_dino import Prompts, pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Category, Vocabulary

WORDS = ["cat dog kitty fox red traffic light house bird old car tree sea small boat shadow"]
VOCABULARY = Vocabulary(
    "mixed",
    (
        Category(3, "cat", ("cat", "small kitty")),
        Category(1, "traffic light", ("traffic light",)),
        Category(12, "house", ("house",)),
        Category(7, "red fox", ("red fox", "fox")),
        Category(90, "boat", ("small boat",)),
        Category(40, "old car", ("old car", "car")),
        Category(50, "shadow", ("shadow",), negative=True),
    ),
)


def tiny_model(folder: Path, kind: str) -> Any:
    """transformers' model, every parameter redrawn; `.folder` is its checkpoint."""
    create_checkpoint(folder, words=["cat", "dog", "red"], kind=kind, redraw=True)
    model = getattr(transformers, checkpoints.resolve(folder).architecture).from_pretrained(folder).eval()
    model.folder = folder
    return model


def one_chunk(model: Any, *phrases: str) -> tuple[int, ...]:
    """Token ids of a prompt of these phrases."""
    words = Tokenizer.load(model.folder)
    return (101, *(token for phrase in phrases for token in (*words.word_ids(phrase), 1012)), 102)


def photo(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 255, (6, 8, 3)).repeat(height // 6, 0).repeat(width // 8, 1)
    return np.clip(coarse + generator.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)


def three_chunks(folder) -> Prompts:
    prompts = pack(VOCABULARY, Tokenizer.load(folder), max_categories=2)
    assert len(prompts.chunks) == 3
    return prompts


def assert_same(got: Detections, expected: Detections, scores: float = 1e-4, pixels: float = 0.02):
    assert got.category_ids.tolist() == expected.category_ids.tolist()
    assert got.chunks.tolist() == expected.chunks.tolist()
    np.testing.assert_allclose(got.scores, expected.scores, atol=scores)
    np.testing.assert_allclose(got.boxes, expected.boxes, atol=pixels)


def poison(detector: BatchedDetector, *, only_in_half: bool = False) -> None:
    """Make the model fail on images whose first pixel is black, as an overflow would: NaN from the backbone on."""

    def hook(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> torch.Tensor | None:
        (pixel_values,) = arguments
        black = (pixel_values[:, :, 0, 0] < -1.7).all(1)
        if only_in_half and not torch.is_autocast_enabled("cpu"):
            return None
        return pixel_values.masked_fill(black[:, None, None, None], float("nan"))

    forward: Any = detector.network.forward
    whole = forward.model.backbone.conv_encoder.model
    halved = forward._backbone._halved[0] if isinstance(forward, FastForward) else whole
    for backbone in {whole, halved}:
        backbone.register_forward_pre_hook(hook)
