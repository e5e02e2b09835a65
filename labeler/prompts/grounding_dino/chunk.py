"""One prompt chunk: a caption, its tokens, and which of them are which phrase."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChunkPhrase:
    """A phrase inside a chunk; `positions` are those of its word tokens in the chunk's input_ids, contiguous."""

    category_id: int
    text: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class PromptChunk:
    """One caption. input_ids: `[CLS] w.. . w.. . [SEP]`; the negative phrases come last."""

    index: int
    caption: str
    input_ids: tuple[int, ...]
    phrases: tuple[ChunkPhrase, ...]


@dataclass(frozen=True)
class Padding:
    """The least size that chunks are padded to: float32 products of another size may round otherwise.

    Attributes:
        tokens, phrases: of a chunk; 0 for no more than the largest chunk has.
    """

    tokens: int = 0
    phrases: int = 0


NO_PADDING = Padding()
