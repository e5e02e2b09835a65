"""Packing loses nothing, positions are right, and every rule for phrases refuses before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeler.config import PromptsConfig
from labeler.errors import Refused
from labeler.prompts.grounding_dino import ChunkPhrase, Prompts, check, pack, positive_map
from labeler.prompts.grounding_dino.family import ChunkPlanner
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.prompts.text import describe
from labeler.vocabulary import BUILT_IN, Category, Vocabulary
from tests.wordpiece import build_tokenizer, words_of


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def built_in_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    vocabularies = [Vocabulary.load(name, synonyms=True) for name in BUILT_IN]
    return build_tokenizer(tmp_path_factory.mktemp("lvis"), [w for v in vocabularies for w in words_of(v)])


def problems_of(tokenizer: Tokenizer, spec: Any, max_tokens: int = 256) -> list[str]:
    vocabulary = Vocabulary.load(spec)
    problems = check(vocabulary, tokenizer, max_tokens).problems
    if problems:
        with pytest.raises(Refused) as caught:
            pack(vocabulary, tokenizer, max_tokens=max_tokens)
        assert caught.value.problems == (tuple(problems) if len(problems) > 1 else ())
        assert problems[0] in str(caught.value) or caught.value.problems
    return problems


def assert_sound(prompts: Prompts, vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
    """Every phrase of every category exactly once (negatives once in every chunk), at its own tokens, in the budget."""
    packed = []
    for index, chunk in enumerate(prompts.chunks):
        assert chunk.index == index
        assert len(chunk.input_ids) <= prompts.max_tokens
        # the caption is for people and for other tools: their tokenizer must come to the same ids
        assert chunk.input_ids == (101, *tokenizer.word_ids(chunk.caption), 102)
        taken: list[int] = []
        for phrase in chunk.phrases:
            assert phrase.positions == tuple(range(phrase.positions[0], phrase.positions[-1] + 1))
            assert [chunk.input_ids[at] for at in phrase.positions] == tokenizer.word_ids(phrase.text)
            assert chunk.input_ids[phrase.positions[-1] + 1] == 1012
            taken += phrase.positions
        assert len(taken) == len(set(taken)) == len(chunk.input_ids) - 2 - len(chunk.phrases)
        negatives = [p.category_id for p in chunk.phrases if p.category_id in prompts.negative_ids]
        assert set(negatives) == vocabulary.negative_ids
        assert [p.category_id for p in chunk.phrases[len(chunk.phrases) - len(negatives) :]] == negatives
        packed += [(p.category_id, p.text) for p in chunk.phrases if p.category_id not in prompts.negative_ids]
    wanted = [(c.id, phrase) for c in vocabulary.categories if not c.negative for phrase in c.phrases]
    assert sorted(packed) == sorted(wanted)


def test_no_category_gives_no_chunk(tokenizer: Tokenizer) -> None:
    prompts = pack(Vocabulary("empty", ()), tokenizer)
    assert prompts.passes == 0
    assert Prompts.from_json(prompts.to_json()) == prompts


def test_a_caption_is_assembled_by_token_ids(tokenizer: Tokenizer) -> None:
    prompts = pack(Vocabulary.load(["Cat", "traffic_light", "bow_(weapon)"]), tokenizer)
    (chunk,) = prompts.chunks
    assert chunk.caption == "cat . traffic light . bow (weapon) ."
    words = [tokenizer.word_ids(w) for w in ("cat", "traffic light", "bow (weapon)")]
    assert [len(w) for w in words] == [1, 2, 4]
    assert chunk.input_ids == (101, *words[0], 1012, *words[1], 1012, *words[2], 1012, 102)
    assert chunk.phrases[1] == ChunkPhrase(2, "traffic light", (3, 4))
    assert prompts.tokens_per_chunk == (12,)


def test_the_positive_map_averages_word_tokens_and_leaves_periods_out(tokenizer: Tokenizer) -> None:
    (chunk,) = pack(Vocabulary.load(["cat", "traffic light"]), tokenizer).chunks
    weights = positive_map(chunk, 10)
    assert weights.dtype == np.float32
    expected = np.zeros((2, 10), np.float32)
    expected[0, 1] = 1
    expected[1, 3:5] = 0.5
    np.testing.assert_array_equal(weights, expected)
    with pytest.raises(ValueError, match="width 6"):
        positive_map(chunk, 6)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("synonyms", [False, True])
def test_each_built_in_category_has_tokens_of_its_own(built_in_tokenizer: Tokenizer, name: str, synonyms: bool) -> None:
    vocabulary = Vocabulary.load(name, synonyms=synonyms)
    assert check(vocabulary, built_in_tokenizer).problems == []
    prompts = pack(vocabulary, built_in_tokenizer)
    assert_sound(prompts, vocabulary, built_in_tokenizer)
    homes: dict[int, set[int]] = {}
    for chunk in prompts.chunks:
        for phrase in chunk.phrases:
            homes.setdefault(phrase.category_id, set()).add(chunk.index)
    assert len(homes) == BUILT_IN[name]
    assert {len(chunks) for chunks in homes.values()} == {1}, "synonyms stay together"
    # every category maps to itself: give a chunk's own tokens of a phrase, and that phrase wins
    for chunk in prompts.chunks:
        weights = positive_map(chunk, 256)
        marks = (weights > 0).astype(np.float32)
        assert (np.argmax(weights @ marks.T, axis=0) == np.arange(len(chunk.phrases))).all()


def test_negative_phrases_stand_in_every_chunk_at_the_end(tokenizer: Tokenizer) -> None:
    vocabulary = Vocabulary.load({"categories": ["cat", "dog", "car", "carrot"], "negative": ["sky", "wall"]})
    prompts = pack(vocabulary, tokenizer, max_tokens=10)
    assert [[p.text for p in chunk.phrases] for chunk in prompts.chunks] == [
        ["cat", "dog", "sky", "wall"],
        ["car", "carrot", "sky", "wall"],
    ]
    assert prompts.negative_ids == {5, 6}
    (problem,) = problems_of(tokenizer, {"categories": ["cat"], "negative": ["sky", "wall"]}, max_tokens=7)
    assert "negative phrases take 4 of 5 tokens" in problem


def test_first_fit_fills_earlier_chunks_and_max_categories_caps(tokenizer: Tokenizer) -> None:
    vocabulary = Vocabulary.load(["cat", "bow (weapon)", "dog", "tree / sky"])
    texts = [[p.text for p in c.phrases] for c in pack(vocabulary, tokenizer, max_tokens=8).chunks]
    assert texts == [["cat", "dog"], ["bow (weapon)"], ["tree", "sky"]]
    capped = pack(vocabulary, tokenizer, max_categories=1)
    assert [{p.category_id for p in c.phrases} for c in capped.chunks] == [{1}, {2}, {3}, {4}]
    with pytest.raises(Refused, match="max_categories"):
        pack(vocabulary, tokenizer, max_categories=0)


def test_protocols_of_others_fill_in_order_or_ask_for_a_phrase_a_pass(tokenizer: Tokenizer) -> None:
    vocabulary = Vocabulary.load(["cat", "bow (weapon)", "dog", "tree / sky"])

    def texts(**options: Any) -> list[list[str]]:
        prompts = pack(vocabulary, tokenizer, **options)
        assert_sound(prompts, vocabulary, tokenizer)
        assert Prompts.from_json(json.loads(json.dumps(prompts.to_json()))) == prompts
        return [[p.text for p in c.phrases] for c in prompts.chunks]

    for protocol in ("mmdet", "glip"):
        assert texts(protocol=protocol, max_tokens=8) == [["cat"], ["bow (weapon)"], ["dog", "tree", "sky"]]
        assert len(texts(protocol=protocol)) == 1
    assert texts(protocol="sentence") == [["cat"], ["bow (weapon)"], ["dog"], ["tree"], ["sky"]]
    many = Vocabulary.load([f"cat {'x' * n}" for n in range(1, 42)])
    chunks = pack(many, tokenizer, protocol="mmdet").chunks
    assert max(len(chunk.phrases) for chunk in chunks) <= 40
    whole = [pack(vocabulary, tokenizer, protocol=name) for name in ("packed", "mmdet", "glip")]
    assert [prompts.whole for prompts in whole] == [False, False, True]
    assert len({prompts.fingerprint for prompts in whole}) == 3  # equal chunks, other rows
    assert "protocol" not in whole[0].to_json()
    assert "protocol" not in "".join(whole[0].settings())
    assert "as GLIP does" in whole[2].lines()[0]
    with pytest.raises(Refused, match="damaged"):
        Prompts.from_json({**whole[1].to_json(), "protocol": "other"})


def test_a_category_too_large_for_a_chunk_is_spread(tokenizer: Tokenizer) -> None:
    vocabulary = Vocabulary.load(["cat / dog / car / tree / sky"])
    prompts = pack(vocabulary, tokenizer, max_tokens=6)
    assert prompts.passes == 3
    assert_sound(prompts, vocabulary, tokenizer)


@pytest.mark.parametrize("max_tokens", [3, 257])
def test_a_budget_the_model_cannot_keep_is_refused(tokenizer: Tokenizer, max_tokens: int) -> None:
    with pytest.raises(Refused, match=r"prompts\.max_tokens must be 4 to 256"):
        pack(Vocabulary.load(["cat"]), tokenizer, max_tokens=max_tokens)


@pytest.mark.parametrize(
    ("phrase", "says"),
    [
        ("st. bernard", "has . in it"),
        ("what?", "has ? in it"),
        ("a.b?c", "has . and ? in it"),
        ("\u200b", "has no token"),
        ("\u0301", "has no token"),
        ("猫", "only [UNK]"),
        ("猫 犬", "only [UNK]"),
        ("cat " * 254, "is too long: 255 tokens"),
    ],
)
def test_a_phrase_the_model_cannot_read_is_refused(tokenizer: Tokenizer, phrase: str, says: str) -> None:
    (problem,) = problems_of(tokenizer, ["dog", phrase])
    assert problem.startswith("entry 2: category 2 ")
    assert says in problem


def test_a_phrase_as_long_as_the_chunk_is_accepted(tokenizer: Tokenizer) -> None:
    prompts = pack(Vocabulary.load(["cat " * 253]), tokenizer)
    assert prompts.tokens_per_chunk == (256,)


def test_one_token_sequence_for_two_categories_is_refused(tokenizer: Tokenizer) -> None:
    (problem,) = problems_of(tokenizer, ["café", "dog", "cafe", "carrot", "car"])
    assert problem == (
        'entry 3: category 3 "cafe": phrase "cafe" is the same tokens as "café" of entry 1: category 1 "café"; '
        "change one of them"
    )
    assert problems_of(tokenizer, ["t-shirt", "t - shirt"])
    assert problems_of(tokenizer, ["cat", {"name": "feline", "phrases": ["dog", "cat\u200b"]}])


def test_a_category_may_spell_the_same_tokens_twice(tokenizer: Tokenizer) -> None:
    vocabulary = Vocabulary.load(["café / cat / cafe"])
    report = check(vocabulary, tokenizer)
    assert report.problems == []
    assert len(report.warnings) == 1
    assert "used once" in report.warnings[0]
    (chunk,) = pack(vocabulary, tokenizer).chunks
    assert [p.text for p in chunk.phrases] == ["café", "cat"]


def test_all_problems_come_at_once_with_their_lines(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text("cat\n\nst. bernard\ndog / 猫\n\ncat .\n")
    problems = problems_of(tokenizer, path)
    assert [problem.split(":")[0] for problem in problems] == ["line 3", "line 4", "line 6"]


def test_specials_written_as_text_are_plain_characters(tokenizer: Tokenizer) -> None:
    assert {0, 100, 101, 102, 103}.isdisjoint(tokenizer.word_ids("[SEP] [cls] [PAD] [MASK]"))


@pytest.mark.parametrize(
    ("phrase", "warns"),
    [
        ("cat", None),
        ("traffic light", None),
        ("t-shirt", None),
        ("car 7", None),
        ("zug", "single characters"),
        ("red carrot", "single characters"),
        ("cat 猫", "partly unknown"),
    ],
)
def test_weak_phrases_are_warned_about(tokenizer: Tokenizer, phrase: str, warns: str | None) -> None:
    report = check(Vocabulary.load([phrase]), tokenizer)
    assert report.problems == []
    assert (warns is None and not report.warnings) or (len(report.warnings) == 1 and str(warns) in report.warnings[0])


letters = st.text("abcdefgé-'()/ ", min_size=1, max_size=20).filter(lambda text: text.strip())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(letters, min_size=1, max_size=4), min_size=1, max_size=30),
    st.integers(0, 3),
    st.integers(100, 256),
    st.one_of(st.none(), st.integers(1, 5)),
)
def test_packing_loses_nothing_and_is_deterministic(
    tokenizer: Tokenizer, groups: list[list[str]], negatives: int, max_tokens: int, max_categories: int | None
) -> None:
    seen: set[tuple[int, ...]] = set()
    categories = []
    for number, texts in enumerate(groups, 1):
        fresh = {tuple(tokenizer.word_ids(text)): text for text in texts}
        fresh = {ids: text for ids, text in fresh.items() if ids and ids not in seen}
        seen |= fresh.keys()
        negative = number <= negatives < len(groups)
        phrases = tuple(fresh.values())[: 1 if negative else None]
        if phrases:
            categories.append(Category(number, f"c{number}", phrases, negative=negative))
    vocabulary = Vocabulary("drawn", tuple(categories))
    prompts = pack(vocabulary, tokenizer, max_tokens=max_tokens, max_categories=max_categories)
    positives = [c for c in categories if not c.negative]
    if positives:
        assert_sound(prompts, vocabulary, tokenizer)
    if max_categories is not None:
        ids = [{p.category_id for p in c.phrases} - vocabulary.negative_ids for c in prompts.chunks]
        assert all(len(group) <= max_categories for group in ids)
    again = pack(vocabulary, tokenizer, max_tokens=max_tokens, max_categories=max_categories)
    assert again == prompts
    assert again.fingerprint == prompts.fingerprint
    assert Prompts.from_json(json.loads(json.dumps(prompts.to_json()))) == prompts


def test_the_fingerprint_follows_everything_the_detector_sees(tokenizer: Tokenizer) -> None:
    base = pack(Vocabulary.load(["cat", "dog"]), tokenizer)
    others = [
        pack(Vocabulary.load(["dog", "cat"]), tokenizer),
        pack(Vocabulary.load(["cat", "dog"]), tokenizer, max_tokens=255),
        pack(Vocabulary.load(["cat", "dog"]), tokenizer, max_categories=1),
        pack(Vocabulary.load(["cat", {"name": "dog", "negative": True}]), tokenizer),
    ]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("chunks"),
        lambda data: data["chunks"][0].pop("input_ids"),
        lambda data: data["chunks"][0]["input_ids"].pop(),
        lambda data: data["chunks"][0]["phrases"].pop(),
        lambda data: data["chunks"][0]["phrases"][0].update(positions=[2]),
        lambda data: data["chunks"][0]["phrases"][0].update(positions=[]),
        lambda data: data.update(chunks=[None]),
    ],
)
def test_damaged_prompts_are_refused(tokenizer: Tokenizer, damage: Any) -> None:
    data = pack(Vocabulary.load(["cat", "dog"]), tokenizer).to_json()
    damage(data)
    with pytest.raises(Refused, match=r"prompts\.json: damaged"):
        Prompts.from_json(data)


def test_describe_tells_chunks_fill_warnings_and_problems(tokenizer: Tokenizer) -> None:
    lines = describe(Vocabulary.load(["cat", "zug", "dog"]), ChunkPlanner(tokenizer), PromptsConfig(max_tokens=8))
    assert lines[0].startswith("list: 3 categories (0 negative), 3 phrases, ids 1..3, fingerprint ")
    assert lines[1] == "2 prompt chunks of at most 8 tokens: 2 passes of the detector per image"
    assert lines[2] == "tokens per chunk: 8 4 (75% full)"
    assert lines[3].startswith('warning: entry 2: category 2 "zug": phrase "zug" falls to single characters')
    assert len(lines) == 4
    bad = describe(Vocabulary.load(["cat", "st. bernard"]), ChunkPlanner(tokenizer))
    assert bad[1].startswith('problem: entry 2: category 2 "st. bernard"')


def test_many_warnings_of_one_kind_are_one_line(tokenizer: Tokenizer) -> None:
    names = ["cat", *(f"z{word}" for word in ("ab", "ag", "eb", "eg", "ib", "ig", "ob", "og", "ub", "ug", "yb", "yg"))]
    lines = describe(Vocabulary.load(names), ChunkPlanner(tokenizer))
    assert len(lines) == 4, lines
    assert lines[3].startswith('warning: 12 of this kind, the first: entry 2: category 2 "zab": phrase "zab" falls to')


@pytest.mark.parametrize("name", ["coco", "lvis_v1", "objects365_v1"])
def test_a_perfect_phrase_maps_to_its_own_category_and_to_no_other(name: str, tmp_path: Path) -> None:
    """348 of LVIS's 1203 names map elsewhere when tokens are joined into a string and looked up."""
    vocabulary = Vocabulary.load(name)
    prompts = pack(vocabulary, build_tokenizer(tmp_path, words_of(vocabulary)))
    right = 0
    for chunk in prompts.chunks:
        weights = positive_map(chunk, 256)
        for phrase in chunk.phrases:
            tokens = np.zeros(256, np.float32)
            tokens[list(phrase.positions)] = 1  # the sigmoid of a query that sees exactly this phrase
            scores = weights @ tokens
            best = chunk.phrases[int(scores.argmax())]
            right += best.category_id == phrase.category_id and np.count_nonzero(scores) == 1
    assert right == len(vocabulary)
