"""A vocabulary as the text that a detector reads: phrases tokenized and packed into prompt chunks."""

from labeler.prompts.chunks import (
    MAX_TOKENS,
    Phrase,
    PromptChunk,
    Prompts,
    check,
    pack,
    positive_map,
)

__all__ = [
    "MAX_TOKENS",
    "Phrase",
    "PromptChunk",
    "Prompts",
    "check",
    "pack",
    "positive_map",
]
