"""A vocabulary with a negative, images, and how equal two results are."""

from __future__ import annotations

import numpy as np

from labeler.detections import Detections
from labeler.prompts import Prompts, pack
from labeler.tokenizer import Tokenizer
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
