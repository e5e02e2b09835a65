"""A changed vocabulary in prompt chunks: which stay, which are new, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labeler.config import PromptsConfig
from labeler.errors import Refused
from labeler.prompts import Revision
from labeler.prompts.grounding_dino import Prompts, pack
from labeler.prompts.grounding_dino.revision import revise
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Vocabulary
from tests.wordpiece import build_tokenizer

NAMES = [f"thing n{number:03d}" for number in range(310)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"), [*NAMES, "cat dog fox kitty sky wall"])


def revised(tokenizer: Tokenizer, old: Prompts, names: Any, **settings: Any) -> Revision:
    return revise(old, Vocabulary.load(names), tokenizer, PromptsConfig(**settings))


def plan_of(revision: Revision) -> Prompts:
    assert isinstance(revision.plan, Prompts)
    return revision.plan


def looked_for(plan: Prompts) -> dict[int, list[str]]:
    """Category id -> its phrases, of those that the rows can have."""
    found: dict[int, list[str]] = {}
    for chunk in plan.chunks:
        for phrase in chunk.phrases:
            if phrase.category_id >= 0:
                found.setdefault(phrase.category_id, []).append(phrase.text)
    return found


def test_of_300_names_one_added_one_renamed_and_one_removed_cost_one_pass_and_not_four(tokenizer: Tokenizer) -> None:
    before = Vocabulary.load(NAMES[:300])
    old = pack(before, tokenizer)
    names = [*NAMES[:300], NAMES[300]]
    names[17] = NAMES[301]
    del names[5]  # the ids of all after it are others now
    after = Vocabulary.load(names)
    revision = revised(tokenizer, old, names)
    plan = plan_of(revision)
    assert (old.passes, pack(after, tokenizer).passes) == (4, 4)
    assert revision.new_passes == (4,)
    assert revision.passes == {0: 0, 1: 1, 2: 2, 3: 3}
    assert [chunk.input_ids for chunk in plan.chunks[:4]] == [chunk.input_ids for chunk in old.chunks]
    assert [phrase.text for phrase in plan.chunks[4].phrases] == [NAMES[301], NAMES[300]]
    assert looked_for(plan) == {category.id: list(category.phrases) for category in after.categories}
    assert len(revision.category_ids) == 298
    assert revision.category_ids[1] == 1
    assert revision.category_ids[7] == 6
    assert not {6, 18} & revision.category_ids.keys()
    assert revision.exact
    assert Prompts.from_json(plan.to_json()) == plan
    assert plan.fingerprint != pack(after, tokenizer).fingerprint


def test_chunks_of_nothing_that_stays_are_dropped_and_the_others_are_still_padded_to_them(tokenizer: Tokenizer) -> None:
    old = pack(Vocabulary.load(NAMES[:6]), tokenizer, max_categories=2)
    revision = revised(tokenizer, old, [NAMES[0], *NAMES[3:7]], max_categories=2)
    plan = plan_of(revision)
    assert (revision.passes, revision.new_passes) == ({0: 0, 1: 1, 2: 2}, (3,))
    assert [[p.category_id for p in chunk.phrases] for chunk in plan.chunks] == [[1, -1], [-2, 2], [3, 4], [5]]
    again = revised(tokenizer, plan, [NAMES[0], *NAMES[4:6], NAMES[2], NAMES[6]], max_categories=2)
    assert again.passes == {0: 0, 2: 1, 3: 2}
    assert [[(p.category_id, p.text) for p in chunk.phrases] for chunk in plan_of(again).chunks] == [
        [(1, NAMES[0]), (-1, NAMES[1])], [(2, NAMES[4]), (3, NAMES[5])], [(5, NAMES[6])], [(4, NAMES[2])]
    ], "a name that comes back is looked for again, because its boxes have left the rows"  # fmt: skip
    wide = pack(Vocabulary.load([{"name": "cat", "phrases": NAMES[:9]}, "dog"]), tokenizer, max_categories=1)
    narrow = plan_of(revised(tokenizer, wide, ["dog", "fox"], max_categories=1))
    assert (narrow.padding.tokens, narrow.padding.phrases) == (max(wide.tokens_per_chunk), 9)


def test_new_names_are_packed_no_longer_than_the_run_s_chunks_if_that_costs_no_pass(tokenizer: Tokenizer) -> None:
    old = pack(Vocabulary.load(NAMES[:4]), tokenizer)
    few = revised(tokenizer, old, NAMES[:8])
    assert few.exact
    assert len(few.new_passes) == 1
    many = revised(tokenizer, old, NAMES[:40])
    assert len(many.new_passes) == 1
    assert not many.exact, "one pass instead of nine, padded to more tokens than the run's"


def test_names_and_ids_may_change_without_a_pass(tokenizer: Tokenizer) -> None:
    old = pack(Vocabulary.load(["cat", "dog / fox"]), tokenizer)
    names = [{"id": 9, "name": "hound", "phrases": ["Fox", "dog"]}, {"id": 4, "name": "cat"}]
    revision = revised(tokenizer, old, names)
    assert revision.new_passes == ()
    assert revision.category_ids == {1: 4, 2: 9}
    more = revised(tokenizer, old, ["cat / kitty", "dog / fox"])
    assert more.category_ids == {2: 2}
    assert [phrase.text for phrase in plan_of(more).chunks[1].phrases] == ["cat", "kitty"]


def test_negative_phrases_are_in_new_chunks_too_and_must_not_change(tokenizer: Tokenizer) -> None:
    def spec(*names: str, negative: tuple[str, ...] = ("sky", "wall")) -> dict[str, Any]:
        return {"categories": list(names), "negative": list(negative)}

    old = pack(Vocabulary.load(spec("cat", "dog")), tokenizer)
    revision = revised(tokenizer, old, spec("cat", "fox", "dog", negative=("wall", "sky")))
    assert [phrase.text for phrase in plan_of(revision).chunks[1].phrases] == ["fox", "sky", "wall"]
    assert plan_of(revision).negative_ids == {4, 5}
    assert revision.category_ids == {1: 1, 2: 3}
    for other in (spec("cat", "dog", negative=("sky",)), spec("cat", "dog", "fox", negative=("sky", "wall", "kitty"))):
        with pytest.raises(Refused, match="negative phrases change"):
            revised(tokenizer, old, other)
    with pytest.raises(Refused, match="negative phrases change"):
        revised(tokenizer, pack(Vocabulary.load(["cat", "dog", "sky"]), tokenizer), spec("cat", negative=("sky",)))


def test_a_vocabulary_that_keeps_nothing_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(Refused, match="keeps no category of the run"):
        revised(tokenizer, pack(Vocabulary.load(["cat", "dog"]), tokenizer), ["fox", "dog / kitty"])


def test_a_plan_from_before_revisions_reads_and_writes_as_it_did(tokenizer: Tokenizer, tmp_path: Path) -> None:
    plain = pack(Vocabulary.load(["cat", "dog"]), tokenizer)
    assert set(plain.to_json()) == {"max_tokens", "negative_ids", "chunks"}
    assert Prompts.from_json(plain.to_json()).fingerprint == plain.fingerprint
