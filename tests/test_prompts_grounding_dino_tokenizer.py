"""The tokenizer of Grounding DINO's prompts: both kinds of files, what is refused, and equality with transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from labeler.detectors.grounding_dino.wordpiece import write_wordpiece
from labeler.errors import Refused
from labeler.prompts.grounding_dino import pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Vocabulary
from tests.wordpiece import build_tokenizer


def test_the_tokenizer_reads_both_file_kinds_alike(tmp_path: Path) -> None:
    both = build_tokenizer(tmp_path / "both")
    texts = ["Café T-SHIRT", "bow (weapon)", "zug", "猫", " "]
    (tmp_path / "both" / "tokenizer.json").unlink()
    only_words = Tokenizer.load(tmp_path / "both")
    assert [both.word_ids(text) for text in texts] == [only_words.word_ids(text) for text in texts]
    assert both.digest != only_words.digest
    assert len(both.digest) == 32
    assert both.is_unknown(both.word_ids("猫")[0])
    assert both.token(both.word_ids("zug")[1]) == "##u"


def test_a_saved_truncation_or_padding_does_not_cut_phrases(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend

    build_tokenizer(tmp_path)
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len(Tokenizer.load(tmp_path).word_ids("cat " * 20)) == 20
    assert len(Tokenizer.load(tmp_path).word_ids("cat")) == 1


def test_a_folder_without_a_bert_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no tokenizer\.json and no vocab\.txt"):
        Tokenizer.load(tmp_path / "missing")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n.\n?\ncat\n")
    with pytest.raises(Refused, match=r"\[CLS\] is 2, not 101.*\. is 5, not 1012"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Refused, match="not readable as a tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_written_wordpiece_is_what_transformers_reads(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    write_wordpiece(tmp_path / "one", ["traffic light", "Café", "bow (weapon)"])
    write_wordpiece(tmp_path / "two", ["bow (weapon)", "café", "light", "traffic"])
    assert {p.name for p in (tmp_path / "one").iterdir()} == {"vocab.txt", "tokenizer.json", "tokenizer_config.json"}
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    tokens = (tmp_path / "one" / "vocab.txt").read_text().splitlines()
    assert (tokens[0], tokens[100:103], tokens[1012], tokens[1029]) == ("[PAD]", ["[UNK]", "[CLS]", "[SEP]"], ".", "?")
    assert len(tokens) == len(set(tokens))
    ours = Tokenizer.load(tmp_path / "one")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "one")
    vocabulary = Vocabulary.load(["Traffic_light", "CAFÉ", "bow (weapon)", "zug", "T-shirt's"])
    (chunk,) = pack(vocabulary, ours).chunks
    assert tuple(theirs(chunk.caption)["input_ids"]) == chunk.input_ids
