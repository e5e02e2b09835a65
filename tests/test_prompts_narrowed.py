"""Plans that are asked for some of their categories: equal sets have equal prompts, and no phrase is spelled again."""

from __future__ import annotations

import pytest

from labeler.prompts.grounding_dino import Prompts, pack
from labeler.prompts.grounding_dino.narrowed import narrow
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Vocabulary
from tests.wordpiece import build_tokenizer

NAMES = [f"thing n{number:02d}" for number in range(60)]
CATEGORIES = [
    {"id": 900 - number, "name": name, "phrases": [name, f"the {name}"] if number % 7 == 0 else [name]}
    for number, name in enumerate(NAMES)
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"), [*NAMES, "the sky wall"])


def plan_of(tokenizer: Tokenizer, categories: object, max_tokens: int = 60) -> Prompts:
    return pack(Vocabulary.load(categories), tokenizer, max_tokens=max_tokens)  # type: ignore[arg-type]


def test_a_part_is_the_plan_of_its_categories_in_the_order_of_the_whole(
    tokenizer: Tokenizer,
) -> None:
    negative = {"id": 1, "name": "wall", "negative": True}
    whole = plan_of(tokenizer, [*CATEGORIES, negative])
    order = list(dict.fromkeys(p.category_id for chunk in whole.chunks for p in chunk.phrases if p.category_id != 1))
    by_id = {category["id"]: category for category in CATEGORIES}
    for some in (order[3:4], order[::5], order[::-2], order):
        part = narrow(whole, frozenset(some))
        again = plan_of(tokenizer, [*(by_id[id_] for id_ in order if id_ in some), negative])
        assert part.to_json() == again.to_json()
        assert part == narrow(whole, tuple(reversed(some))), "whatever the order it is asked in"
    assert whole.passes == 4
    assert narrow(whole, [order[3]]).passes == 1


def test_all_categories_of_one_chunk_are_the_plan_itself(tokenizer: Tokenizer) -> None:
    whole = plan_of(tokenizer, CATEGORIES[:8], max_tokens=256)
    assert narrow(whole, {category["id"] for category in CATEGORIES[:8]}) == whole


def test_a_category_that_no_chunk_holds_is_spread_as_in_the_whole(tokenizer: Tokenizer) -> None:
    many = {"id": 5, "name": "thing", "phrases": [f"the {name}" for name in NAMES[:20]]}
    whole = plan_of(tokenizer, [many, CATEGORIES[30]], max_tokens=40)
    part = narrow(whole, [5])
    assert part.passes == whole.passes > 1
    assert {phrase.text for chunk in part.chunks for phrase in chunk.phrases} == set(many["phrases"])
