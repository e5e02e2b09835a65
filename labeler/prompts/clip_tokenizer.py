"""CLIP's tokenizer, read from a checkpoint's folder without torch: byte pairs of lower-case words, a start, an end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labeler import plain_json
from labeler.digests import digest_of
from labeler.errors import Refused
from labeler.prompts.tokenizer_file import load_tokenizer
from labeler.storage import read_regular

FILES = ("tokenizer.json", "vocab.json")  # a checkpoint has one of them; beside vocab.json lies merges.txt
START, END = "<|startoftext|>", "<|endoftext|>"
# What a word is (transformers' CLIPTokenizer, after OpenAI's simple_tokenizer.py).
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class ClipTokenizer:
    """Text to token ids with start and end.

    Attributes:
        digest: blake2b-128, hex, of what it was read from.
        start_id, end_id: of the two specials.
    """

    def __init__(self, backend: Any, digest: str, source: str) -> None:
        """Use `load`. `backend`: a tokenizers.Tokenizer."""
        self._backend, self.digest = backend, digest
        start, end = (backend.token_to_id(token) for token in (START, END))
        if start is None or end is None:
            raise Refused(f"{source}: not CLIP's vocabulary: it has no {START if start is None else END}")
        self.start_id, self.end_id = int(start), int(end)

    @staticmethod
    def load(folder: str | Path) -> ClipTokenizer:
        """Return the tokenizer of a local checkpoint folder: its tokenizer.json, else its vocab.json with merges.txt.

        Raises:
            Refused: neither is there, or it cannot be read as CLIP's.
        """
        whole, vocab, merges = (Path(folder) / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
        try:
            if whole.is_file():
                backend, data = load_tokenizer(whole)
                return ClipTokenizer(backend, digest_of(data), str(whole))
            pairs = read_regular(merges)
            backend, data = load_tokenizer(vocab, lambda words: _byte_pairs(words, pairs))
        except FileNotFoundError as error:
            missing = Path(error.filename or vocab).name
            raise Refused(f"{folder}: no tokenizer.json and no {missing}; is it a checkpoint folder?") from None
        return ClipTokenizer(backend, digest_of(data + b"\0" + pairs), str(vocab))

    def ids(self, text: str) -> list[int]:
        """Return token ids of `text` between start and end."""
        return [self.start_id, *self._backend.encode(text, add_special_tokens=False).ids, self.end_id]


def _byte_pairs(vocab: bytes, merges: bytes) -> Any:
    """Return a tokenizers.Tokenizer of the older two files, set up as transformers' CLIPTokenizer."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    lines = [line for line in merges.decode().splitlines() if line and not line.startswith("#version")]
    pairs = [(first, second) for first, second in (line.split(" ") for line in lines)]
    model = models.BPE(plain_json.parse(vocab), pairs, end_of_word_suffix="</w>", unk_token=END)
    backend = Tokenizer(model)
    clean = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    backend.normalizer = normalizers.Sequence(clean)
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in (START, END)])
    return backend
