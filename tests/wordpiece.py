"""A tokenizer for tests: BERT's layout, with exactly the words that a test needs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from labeler.detectors.grounding_dino.wordpiece import write_wordpiece
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Vocabulary

WORDS = ("cat", "dog", "carrot", "car", "traffic light", "bow (weapon)", "t-shirt", "café", "tree", "sky", "wall")


def build_tokenizer(folder: Path, words: Iterable[str] = WORDS) -> Tokenizer:
    """A tokenizer in `folder` that knows `words` whole; other words fall to single characters."""
    write_wordpiece(folder, words)
    return Tokenizer.load(folder)


def words_of(vocabulary: Vocabulary) -> list[str]:
    """Every phrase of the vocabulary."""
    return [phrase for category in vocabulary.categories for phrase in category.phrases]
