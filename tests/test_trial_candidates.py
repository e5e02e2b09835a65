"""Which phrases are tried: those of the vocabulary, and proposals where its names meet those of built-in ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labeler.config import PromptsConfig
from labeler.prompts.clip_tokenizer import ClipTokenizer
from labeler.prompts.grounding_dino.family import ChunkPlanner
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.prompts.owl.planner import OwlPlanner
from labeler.trial.candidates import Candidate, candidates_of, proposals_for, trial_vocabulary, usable
from labeler.vocabulary import Vocabulary
from tests.clip_files import write_clip_files

SHAPES = Path(__file__).parent.parent / "models" / "shapes"


def proposed(*spec: Any) -> list[tuple[int, str, str | None]]:
    return [(one.category_id, one.text, one.proposed_by) for one in proposals_for(Vocabulary.load(list(spec)))]


def test_synonyms_are_proposed_where_a_name_or_a_phrase_meets_one_of_theirs() -> None:
    assert proposed("aerosol_can", "zebra crossing light") == [(1, "spray can", "lvis_v1")]
    assert proposed({"name": "my product", "phrases": ["Spray Can"]}) == [(1, "aerosol can", "lvis_v1")]
    assert proposed("cabinet") == [(1, "cabinet/shelf", "objects365_v1"), (1, "shelf", "objects365_v1")]


def test_a_phrase_that_two_categories_would_get_or_another_has_is_proposed_to_neither() -> None:
    assert (1, "bun", "objects365_v1") in proposed("bread/bun")
    assert not [one for one in proposed("bread/bun", "bun") if one[1] == "bun"]
    assert not proposed("aerosol can", {"name": "spray can", "phrases": ["yellow can"]})
    assert not proposed("aerosol can", {"name": "other", "phrases": ["spray can"]})
    assert not proposed("cat", {"name": "aerosol can", "negative": True})


def test_each_phrase_becomes_a_category_and_negatives_compete_as_before() -> None:
    vocabulary = Vocabulary.load([{"name": "cat", "phrases": ["cat", "kitty"]}, "dog",
                                  {"name": "wall", "negative": True}])  # fmt: skip
    candidates = candidates_of(vocabulary)
    assert [(one.category_id, one.text) for one in candidates] == [(1, "cat"), (1, "kitty"), (2, "dog")]
    trial = trial_vocabulary(vocabulary, candidates)
    assert [(c.id, c.phrases, c.negative) for c in trial.categories] == [
        (0, ("cat",), False), (1, ("kitty",), False), (2, ("dog",), False), (3, ("wall",), True)]  # fmt: skip


@pytest.mark.parametrize("planner", ["chunks", "owl"])
def test_phrases_that_read_the_same_or_cannot_be_read_are_left_out_and_the_vocabulary_s_own_comes_first(
    planner: str, tmp_path: Path
) -> None:
    twice, last = ("r\u00e9d circle", "\u2603") if planner == "chunks" else ("red circle!", "!!!")
    phrases = ["red circle", twice, "red star"]
    vocabulary = Vocabulary.load([{"name": "red circle", "phrases": phrases}, "blue ring"])
    more = [Candidate(1, "Blue RING", proposed_by="p"), Candidate(2, "pink heart", proposed_by="p"),
            Candidate(2, last, proposed_by="p")]  # fmt: skip
    if planner == "chunks":
        of: Any = ChunkPlanner(Tokenizer.load(SHAPES))
    else:
        write_clip_files(tmp_path, ["red", "circle", "star", "blue", "ring", "pink", "heart"])
        of = OwlPlanner("owlv2", ClipTokenizer.load(tmp_path), 16)
    good, left_out = usable(vocabulary, [*more, *candidates_of(vocabulary)], of, PromptsConfig(templates=("{}",)))
    assert [(one.category_id, one.text) for one in good] == [
        (1, "red circle"), (1, "red star"), (2, "blue ring"), (2, "pink heart")]  # fmt: skip
    assert [one.text for one in left_out] == [twice, "Blue RING", last]
