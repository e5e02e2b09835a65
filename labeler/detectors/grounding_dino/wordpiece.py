"""Write a small BERT-like WordPiece vocabulary, for checkpoints that are made from scratch."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable
from pathlib import Path

# BERT's layout: specials at 100..103, then the printable ASCII characters (no upper case) in order from 999 on,
# which puts "." at 1012 and "?" at 1029, where Grounding DINO expects them.
SPECIALS = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
FIRST_CHARACTER_ID = 999


def write_wordpiece(folder: str | Path, words: Iterable[str]) -> None:
    """Write vocab.txt, tokenizer.json and tokenizer_config.json into `folder` (made if missing).

    Args:
        words: names or phrases; each of their words becomes one token. Any other word of letters and digits falls
            to single characters, and a word with any other character is [UNK]. Their order does not matter.
    """
    from tokenizers import BertWordPieceTokenizer

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = _list_tokens(words)
    tokenizer = BertWordPieceTokenizer({token: number for number, token in enumerate(tokens)}, lowercase=True)
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": 512,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    }
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _list_tokens(words: Iterable[str]) -> list[str]:
    """Return the tokens; a token's id is its position."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    normalizer, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    whole = {w for text in words for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text.lower()))}
    unused = (f"[unused{number}]" for number in range(FIRST_CHARACTER_ID))
    tokens = [SPECIALS.get(number) or next(unused) for number in range(FIRST_CHARACTER_ID)]
    tokens += [chr(code) for code in range(ord("!"), ord("~") + 1) if chr(code) not in string.ascii_uppercase]
    tokens += [f"##{character}" for character in string.ascii_lowercase + string.digits]
    return tokens + sorted(whole - set(tokens))
