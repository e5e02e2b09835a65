"""A vocabulary that changes, in prompt chunks: those that it leaves as they are, and new ones for new words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from labeler.config import PromptsConfig
from labeler.errors import Refused
from labeler.prompts.family import Revision
from labeler.prompts.grounding_dino.chunk import Padding, PromptChunk
from labeler.prompts.grounding_dino.chunks import (
    MAX_CHUNKS,
    Prompts,
    Spelled,
    assemble,
    binned,
    cost_of,
    drop_repeated,
    spell,
)
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Vocabulary

Words = tuple[tuple[int, ...], ...]  # of a category: the token ids of its phrases


def revise(plan: Prompts, vocabulary: Vocabulary, tokenizer: Tokenizer, prompts: PromptsConfig) -> Revision:
    """Give a plan another vocabulary. Chunks with a category that stays keep their text, others are dropped.

    A category stays if it has the same phrases as before, to the token: its id and name may change.

    Args:
        plan: what the run was labeled with.
        vocabulary: the new one, which has no problem with this tokenizer.

    Raises:
        Refused: no category stays, or the negative phrases change, which are in every chunk.
    """
    spelled = drop_repeated(spell(vocabulary, tokenizer))
    now = {words: id_ for id_, words in _words_of((p.category.id, p.ids) for p in spelled).items()}
    before = _words_of((id_, ids) for chunk in plan.chunks for id_, ids in _phrases_of(chunk))
    stays = {id_: now[words] for id_, words in before.items() if words in now and id_ >= 0}
    _require_same_negatives(plan, vocabulary, stays)
    if all(vocabulary.by_id[id_].negative for id_ in stays.values()):
        raise Refused("the new vocabulary keeps no category of the run as it was: label it again")
    ids = _with_removed(before, stays)
    kept = [chunk for chunk in plan.chunks if not all(_is_gone(ids[p.category_id], vocabulary) for p in chunk.phrases)]
    padding = Padding(
        max(plan.padding.tokens, *plan.tokens_per_chunk),
        max(plan.padding.phrases, *(len(chunk.phrases) for chunk in plan.chunks)),
    )
    fresh = [phrase for phrase in spelled if phrase.category.id not in stays.values()]
    negatives = _negatives_of(kept[0], spelled, vocabulary)
    bins = _packed(fresh, negatives, _Limits(plan.max_tokens, padding.tokens, prompts))
    if len(kept) + len(bins) > MAX_CHUNKS:
        raise Refused(f"{len(kept) + len(bins)} prompt chunks, at most {MAX_CHUNKS}; label again")
    chunks = [_renamed(chunk, place, ids) for place, chunk in enumerate(kept)]
    chunks += [assemble(len(kept) + place, [*members, *negatives]) for place, members in enumerate(bins)]
    revised = Prompts(tuple(chunks), vocabulary.negative_ids, plan.max_tokens, plan.protocol, padding)
    return Revision(
        plan=revised,
        new_passes=tuple(range(len(kept), len(chunks))),
        category_ids={id_: new for id_, new in stays.items() if not vocabulary.by_id[new].negative},
        passes={chunk.index: place for place, chunk in enumerate(kept)},
        exact=max(revised.tokens_per_chunk) <= padding.tokens
        and max(len(chunk.phrases) for chunk in chunks) <= padding.phrases,
    )


def _phrases_of(chunk: PromptChunk) -> Iterable[tuple[int, tuple[int, ...]]]:
    """Return (category id, token ids) of each phrase."""
    return ((p.category_id, tuple(chunk.input_ids[at] for at in p.positions)) for p in chunk.phrases)


def _words_of(phrases: Iterable[tuple[int, tuple[int, ...]]]) -> dict[int, Words]:
    """Return the words of each category, in an order that does not depend on the plan; negatives are in many chunks."""
    found: dict[int, set[tuple[int, ...]]] = {}
    for id_, ids in phrases:
        found.setdefault(id_, set()).add(ids)
    return {id_: tuple(sorted(words)) for id_, words in found.items()}


def _require_same_negatives(plan: Prompts, vocabulary: Vocabulary, stays: Mapping[int, int]) -> None:
    old, new = plan.negative_ids, vocabulary.negative_ids
    if {stays.get(id_) for id_ in old} != new or any(stays[id_] in new for id_ in stays.keys() - old):
        raise Refused("the negative phrases change, and they are in every prompt: label again with the new vocabulary")


def _with_removed(before: Mapping[int, Words], stays: Mapping[int, int]) -> dict[int, int]:
    """Return the new id of every id of the plan; those that leave it get one below 0."""
    ids = dict(stays)
    lowest = min(0, *before)
    for id_ in before:
        if id_ < 0:
            ids[id_] = id_
        elif id_ not in stays:
            lowest -= 1
            ids[id_] = lowest
    return ids


def _is_gone(id_: int, vocabulary: Vocabulary) -> bool:
    return id_ < 0 or vocabulary.by_id[id_].negative


def _renamed(chunk: PromptChunk, place: int, ids: Mapping[int, int]) -> PromptChunk:
    phrases = tuple(replace(phrase, category_id=ids[phrase.category_id]) for phrase in chunk.phrases)
    return replace(chunk, index=place, phrases=phrases)


def _negatives_of(chunk: PromptChunk, spelled: Sequence[Spelled], vocabulary: Vocabulary) -> list[Spelled]:
    """Return the negative phrases in the order that the kept chunks have them in."""
    places = {ids: place for place, (_, ids) in enumerate(_phrases_of(chunk))}
    return sorted((p for p in spelled if p.category.negative), key=lambda phrase: places[phrase.ids])


@dataclass(frozen=True)
class _Limits:
    max_tokens: int
    padded_tokens: int
    prompts: PromptsConfig


def _packed(fresh: Sequence[Spelled], negatives: Sequence[Spelled], limits: _Limits) -> list[list[Spelled]]:
    """Return the new phrases in chunks; none longer than those of the run, so that all are padded alike, if that adds
    none.
    """
    if not fresh:
        return []

    def packed(tokens: int) -> list[list[Spelled]]:
        room = tokens - 2 - cost_of(negatives)
        return binned(list(fresh), room, limits.prompts.max_categories, limits.prompts.protocol)

    best = packed(limits.max_tokens)
    if max(phrase.cost for phrase in fresh) > limits.padded_tokens - 2 - cost_of(negatives):
        return best
    alike = packed(limits.padded_tokens)
    return alike if len(alike) <= len(best) else best
