"""A small tokenizer of CLIP's kind: byte pairs learned from a few words, in the two files of older checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from labeler.prompts.clip_tokenizer import END, START


def write_clip_files(folder: Path, words: Iterable[str], *, whole: bool = False) -> int:
    """Write vocab.json and merges.txt, or tokenizer.json alone as transformers saves it; return how many tokens.

    Args:
        words: that get few tokens each; any other text gets one a character.
        whole: write tokenizer.json.
    """
    learned = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=sorted(letters), end_of_word_suffix="</w>", show_progress=False
    )
    learned.train_from_iterator([word for word in words for _ in range(3)], trainer)
    pairs = [tuple(pair) for pair in json.loads(learned.to_str())["model"]["merges"]]
    tokens = [*sorted(letters), *(f"{letter}</w>" for letter in sorted(letters)), *("".join(pair) for pair in pairs)]
    vocab = {token: number for number, token in enumerate([*dict.fromkeys(tokens), START, END])}
    if whole:
        from transformers import CLIPTokenizer

        CLIPTokenizer(vocab=vocab, merges=pairs).backend_tokenizer.save(str(folder / "tokenizer.json"))
    else:
        (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
        lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return len(vocab)
