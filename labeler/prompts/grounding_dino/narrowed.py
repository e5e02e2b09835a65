"""The prompts of one image: the phrases of some of a run's categories, packed again."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from labeler.prompts.grounding_dino.chunk import PromptChunk
from labeler.prompts.grounding_dino.chunks import PACKED, Prompts, Spelled, assemble, binned, cost_of, drop_repeated
from labeler.vocabulary import Category


def narrow(plan: Prompts, category_ids: Collection[int]) -> Prompts:
    """Return the plan for some of its categories and all of its negatives.

    Phrases come in the order in which `plan` has them, chunk by chunk, whatever the order of `category_ids`. So equal
    sets have equal prompts, and a plan of one chunk that is asked for all of its categories stays as it is.
    """
    wanted = plan.negative_ids.union(category_ids)
    phrases = drop_repeated(
        phrase for chunk in plan.chunks for phrase in _phrases_of(chunk, plan) if phrase.category.id in wanted
    )
    negatives = [phrase for phrase in phrases if phrase.category.negative]
    bins = binned(phrases, plan.max_tokens - 2 - cost_of(negatives), None, PACKED)
    chunks = tuple(assemble(place, [*members, *negatives]) for place, members in enumerate(bins))
    return Prompts(chunks, plan.negative_ids, plan.max_tokens, plan.protocol)


def _phrases_of(chunk: PromptChunk, plan: Prompts) -> Iterator[Spelled]:
    for phrase in chunk.phrases:
        ids = tuple(chunk.input_ids[at] for at in phrase.positions)
        negative = phrase.category_id in plan.negative_ids
        yield Spelled(Category(phrase.category_id, "", (phrase.text,), negative), phrase.text, ids)
