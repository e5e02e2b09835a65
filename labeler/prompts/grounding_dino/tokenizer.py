"""A checkpoint's own WordPiece tokenizer, read from its folder without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from labeler.digests import digest_of
from labeler.errors import Refused
from labeler.prompts.tokenizer_file import load_tokenizer

CLS_ID, SEP_ID, PERIOD_ID, QUESTION_ID = 101, 102, 1012, 1029
# Grounding DINO's sub-sentence mask is built from these very numbers, whatever the tokenizer says
# (transformers: modeling_grounding_dino.SPECIAL_TOKENS), so a vocabulary that numbers differently cannot work.
HARD_WIRED = {"[CLS]": CLS_ID, "[SEP]": SEP_ID, ".": PERIOD_ID, "?": QUESTION_ID}
UNKNOWN_TOKEN = "[UNK]"


class Tokenizer:
    """Text to token ids, lower case, without specials.

    Attributes:
        digest: blake2b-128, hex, of the file it was read from.
        special_ids: ids that a phrase must not contain ([CLS], [PAD], ...), [UNK] not among them.
    """

    def __init__(self, backend: Any, digest: str, source: str) -> None:
        """Use `load`. `backend`: a tokenizers.Tokenizer or tokenizers.BertWordPieceTokenizer."""
        self._backend = backend
        self.digest = digest
        self.unknown_id: int | None = backend.token_to_id(UNKNOWN_TOKEN)
        ids = {token: backend.token_to_id(token) for token in HARD_WIRED}
        wrong = [
            f"{token} is {ids[token]}, not {number}" for token, number in HARD_WIRED.items() if ids[token] != number
        ]
        if wrong:
            raise Refused(f"{source}: not the BERT vocabulary that Grounding DINO is wired to: {', '.join(wrong)}")
        specials = (backend.token_to_id(token) for token in ("[PAD]", "[CLS]", "[SEP]", "[MASK]"))
        self.special_ids = frozenset(i for i in specials if i is not None)

    @staticmethod
    def load(folder: str | Path) -> Tokenizer:
        """Return the tokenizer of a local checkpoint folder: its tokenizer.json, else its vocab.txt.

        Raises:
            Refused: neither is there, not readable, or the ids of [CLS], [SEP], `.` and `?` are not BERT's.
        """
        whole, words = Path(folder) / "tokenizer.json", Path(folder) / "vocab.txt"
        path = whole if whole.is_file() else words
        try:
            backend, data = load_tokenizer(path, None if path == whole else _word_pieces)
        except FileNotFoundError:
            raise Refused(f"{folder}: no tokenizer.json and no vocab.txt; is it a checkpoint folder?") from None
        return Tokenizer(backend, digest_of(data), str(path))

    def word_ids(self, text: str) -> list[int]:
        """Return token ids of `text` in lower case, without [CLS] and [SEP]."""
        ids: list[int] = self._backend.encode(text.lower(), add_special_tokens=False).ids
        return ids

    def is_unknown(self, token_id: int) -> bool:
        """True for [UNK]."""
        return token_id == self.unknown_id

    def token(self, token_id: int) -> str:
        """Return the token's text ("##s"); [UNK] for a number that is not a token."""
        text: str | None = self._backend.id_to_token(token_id)
        return UNKNOWN_TOKEN if text is None else text

    def __repr__(self) -> str:
        return f"Tokenizer({json.dumps(self.digest)})"


def _word_pieces(data: bytes) -> Any:
    """Return the tokenizer of a vocab.txt: a token a line, numbered from 0."""
    from tokenizers import BertWordPieceTokenizer

    lines = data.decode().rstrip("\n").split("\n")
    return BertWordPieceTokenizer({line.rstrip("\r"): number for number, line in enumerate(lines)}, lowercase=True)
