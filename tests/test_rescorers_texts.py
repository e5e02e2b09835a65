"""Phrases as CLIP and SigLIP read them, the files of their tokenizers, and checkpoints that are something else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from labeler.errors import Refused
from labeler.rescorers import resolve_rescorer
from labeler.rescorers.preprocess import CropRule
from labeler.rescorers.siglip_tokenizer import SiglipTokenizer
from labeler.rescorers.texts import Texts, make_texts, padded
from labeler.vocabulary import Vocabulary
from tests.rescorer_parts import KINDS, LENGTH, stock_tokens, tiny_rescorer
from tests.segmenter_parts import tiny_sam

NAMES = Vocabulary.load(["cat", "dog", "traffic light"])


def texts_of(kind: str, vocabulary: Vocabulary = NAMES) -> Texts:
    return make_texts(resolve_rescorer(tiny_rescorer(kind)), vocabulary)


@pytest.fixture
def copied(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return Path(shutil.copytree(tiny_rescorer(request.param), tmp_path / request.param))


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_have_the_tokens_and_the_filling_of_the_checkpoint_s_own_tokenizer(kind: str) -> None:
    texts = texts_of(kind)
    prompts = [phrase.prompts[0] for phrase in texts.phrases]
    words = [f"a photo of a {name}" for name in ("cat", "dog", "traffic light")]
    words += ["background"] if kind == "clip" else []
    expected = stock_tokens(kind, tiny_rescorer(kind), words)["input_ids"]
    assert torch.equal(torch.tensor([ids for ids, _ in padded(texts, prompts)]), expected)
    assert texts.length == (None if kind == "clip" else LENGTH)
    assert texts.category_ids == (1, 2, 3)


def test_siglip_s_texts_are_spelled_as_in_training() -> None:
    first, second = (SiglipTokenizer.load(tiny_rescorer(kind)) for kind in ("siglip", "siglip2"))
    assert first.ids("A  Traffic-Light's") == first.ids("a trafficlights")
    assert second.ids("CAT.") == second.ids("cat.") != second.ids("cat")


def test_the_side_of_the_filling_is_the_tokenizer_s(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_rescorer("siglip2"), tmp_path / "left"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "left"}))
    right, left = (make_texts(resolve_rescorer(place), NAMES) for place in (tiny_rescorer("siglip2"), folder))
    ids = right.phrases[0].prompts[0]
    (tokens, mask), (other, _) = next(padded(left, [ids])), next(padded(right, [ids]))
    assert tokens == [right.pad_id] * (LENGTH - len(ids)) + list(ids)
    assert other == list(ids) + [right.pad_id] * (LENGTH - len(ids))
    assert mask == [0] * (LENGTH - len(ids)) + [1] * len(ids)
    assert left.fingerprint != right.fingerprint


def test_the_fingerprint_is_of_all_that_boxes_are_compared_with() -> None:
    checkpoint = resolve_rescorer(tiny_rescorer("clip"))
    plain = make_texts(checkpoint, NAMES)
    assert make_texts(checkpoint, NAMES).fingerprint == plain.fingerprint
    others = [
        make_texts(checkpoint, NAMES, templates=("a {}",)),
        make_texts(checkpoint, NAMES, background=("a photo",)),
        make_texts(checkpoint, Vocabulary.load(["cat", "dog", "bus"])),
        texts_of("siglip"),
    ]
    assert len({plain.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_phrases_that_the_model_cannot_read_are_all_named() -> None:
    names = ["cat", "dog " * 40, "\N{SNOWMAN}"]
    with pytest.raises(Refused) as refused:
        make_texts(resolve_rescorer(tiny_rescorer("clip")), Vocabulary.load(names), templates=("{}",))
    assert "is too long: 42 tokens in a template, the model reads 32" in str(refused.value) + str(
        refused.value.problems
    )
    with pytest.raises(Refused, match=r"category 1 \"!!\": phrase \"!!\" has no letter that the tokenizer knows"):
        make_texts(resolve_rescorer(tiny_rescorer("siglip")), Vocabulary.load(["!!"]), templates=("{}",))
    small = replace(resolve_rescorer(tiny_rescorer("clip")), text_config={"vocab_size": 9})
    with pytest.raises(Refused, match="has a token beyond the model's 9; the tokenizer is of another checkpoint"):
        make_texts(replace(small, architecture="SiglipModel", folder=tiny_rescorer("siglip")), Vocabulary.load(["cat"]))


def test_one_category_without_a_background_is_refused_for_clip_alone() -> None:
    one = Vocabulary.load(["cat"])
    with pytest.raises(Refused, match=r"rescore\.background is empty and the vocabulary has one category"):
        make_texts(resolve_rescorer(tiny_rescorer("clip")), one, background=())
    assert len(make_texts(resolve_rescorer(tiny_rescorer("siglip")), one, background=()).phrases) == 1


@pytest.mark.parametrize(
    ("copied", "files", "problem"),
    [
        ("clip", ("vocab.json",), "no tokenizer.json and no vocab.json"),
        ("siglip", ("tokenizer.json",), "no tokenizer.json; is it a checkpoint folder?"),
    ],
    indirect=["copied"],
)
def test_a_checkpoint_without_a_tokenizer_is_refused(copied: Path, files: tuple[str, ...], problem: str) -> None:
    for name in files:
        (copied / name).unlink()
    with pytest.raises(Refused, match=problem):
        make_texts(resolve_rescorer(copied), NAMES)
    (copied / "spiece.model").write_bytes(b"")
    if "siglip" in copied.name:
        with pytest.raises(Refused, match=r"spiece\.model alone is not read; save the checkpoint's tokenizer as"):
            make_texts(resolve_rescorer(copied), NAMES)


@pytest.mark.parametrize("copied", ["siglip"], indirect=True)
def test_a_tokenizer_of_something_else_is_refused(copied: Path) -> None:
    whole = json.loads((copied / "tokenizer.json").read_text())
    whole["added_tokens"] = []
    whole["model"]["vocab"] = [pair for pair in whole["model"]["vocab"] if pair[0] != "</s>"]
    (copied / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(Refused, match="not SigLIP's vocabulary: it has no </s>"):
        make_texts(resolve_rescorer(copied), NAMES)
    (copied / "tokenizer.json").write_text("[1")
    with pytest.raises(Refused, match="not readable as a tokenizer"):
        make_texts(resolve_rescorer(copied), NAMES)


@pytest.mark.parametrize("copied", ["clip"], indirect=True)
def test_a_model_that_is_not_a_clip_or_siglip_is_refused_by_its_type(copied: Path) -> None:
    with pytest.raises(Refused, match="is of type sam2, which makes masks and no scores; name it for `labeler mask`"):
        resolve_rescorer(tiny_sam("sam2"))
    config = json.loads((copied / "config.json").read_text())
    cases = {
        "siglip2": r"is of type siglip2, SigLIP 2 with variable resolution \(NaFlex\); take one of its",
        "bert": "is of type bert; supported are clip, siglip",
        None: "is of type unknown; supported are",
    }
    for model_type, problem in cases.items():
        (copied / "config.json").write_text(json.dumps({**config, "model_type": model_type}))
        with pytest.raises(Refused, match=problem):
            resolve_rescorer(copied)
    (copied / "config.json").write_text(json.dumps({**config, "vision_config": {"image_size": "large"}}))
    with pytest.raises(Refused, match=r"image_size in its config\.json is 'large'"):
        resolve_rescorer(copied)


@pytest.mark.parametrize("copied", ["clip", "siglip"], indirect=True)
def test_an_image_processor_that_does_not_fit_the_model_is_refused(copied: Path) -> None:
    for settings in ({"size": {"height": 40, "width": 40}}, {"size": {"shortest_edge": 24}}, {"do_resize": False}):
        (copied / "preprocessor_config.json").write_text(json.dumps(settings))
        with pytest.raises(Refused, match="do not give the model's 32 pixels"):
            CropRule.of(resolve_rescorer(copied), 0.0)
    (copied / "preprocessor_config.json").unlink()
    assert CropRule.of(resolve_rescorer(copied), 0.0).shortest == (32 if copied.name == "clip" else 0)
