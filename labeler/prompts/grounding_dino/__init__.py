"""Grounding DINO's prompts: phrases tokenized and packed into chunks, with each phrase's token positions."""

from labeler.prompts.grounding_dino.chunk import ChunkPhrase, PromptChunk
from labeler.prompts.grounding_dino.chunks import (
    MAX_TOKENS,
    Prompts,
    check,
    pack,
    positive_map,
)

__all__ = [
    "MAX_TOKENS",
    "ChunkPhrase",
    "PromptChunk",
    "Prompts",
    "check",
    "pack",
    "positive_map",
]
