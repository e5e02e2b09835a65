"""CLIP's tokenizer from its files against transformers' own."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from labeler.errors import Refused
from labeler.prompts.clip_tokenizer import ClipTokenizer
from tests.clip_files import write_clip_files

WORDS = ["cat", "dog", "traffic light", "bus", "red", "circle"]
TEXTS = [
    "cat", "Traffic  Light", " a photo of a dog. ", "it's a bus, isn't it?", "café №5", "bus42", "red\tcircle\n",
    "x" * 90, "", "日本語", "\N{GRINNING FACE} cat", "<|endoftext|>", "a-b_c/d",
]  # fmt: skip


@pytest.mark.parametrize("whole", [False, True])
def test_its_tokens_are_those_of_transformers(tmp_path: Path, whole: bool) -> None:
    write_clip_files(tmp_path, WORDS, whole=whole)
    ours = ClipTokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    theirs = CLIPTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert ours.ids(text) == theirs(text)["input_ids"], text
    assert len(ours.ids("cat")) == 3


def test_both_files_are_in_the_digest(tmp_path: Path) -> None:
    write_clip_files(tmp_path, WORDS)
    before = ClipTokenizer.load(tmp_path).digest
    merges = tmp_path / "merges.txt"
    merges.write_text(merges.read_text().rsplit("\n", 2)[0] + "\n")
    assert ClipTokenizer.load(tmp_path).digest != before


def test_what_is_missing_or_no_tokenizer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no tokenizer.json and no merges.txt; is it a checkpoint folder"):
        ClipTokenizer.load(tmp_path)
    write_clip_files(tmp_path, WORDS)
    (tmp_path / "vocab.json").write_text('{"cat": 0}')
    with pytest.raises(Refused, match=r"vocab.json: not readable as a tokenizer|not CLIP's vocabulary"):
        ClipTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Refused, match=r"tokenizer.json: not readable as a tokenizer"):
        ClipTokenizer.load(tmp_path)
