"""Which phrases are tried: those of a vocabulary, and those that the built-in vocabularies have for its names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from labeler.config import PromptsConfig
from labeler.prompts import Planner
from labeler.vocabulary import Category, Vocabulary
from labeler.vocabulary.crops import ObjectCrop
from labeler.vocabulary.reading import clean_phrase, phrase_key

PROPOSERS = ("lvis_v1", "objects365_v1")  # the built-in vocabularies that have synonyms


@dataclass(frozen=True)
class Candidate:
    """A phrase that may stand for a category.

    Attributes:
        category_id: in the vocabulary.
        text: its words; of a crop its name.
        crop: None for words.
        proposed_by: the built-in vocabulary that has it; None for a phrase of the vocabulary itself.
    """

    category_id: int
    text: str
    crop: ObjectCrop | None = None
    proposed_by: str | None = None


def candidates_of(vocabulary: Vocabulary) -> list[Candidate]:
    """Return every phrase and crop of the categories that are not negative."""
    found = (category for category in vocabulary.categories if not category.negative)
    return [
        candidate
        for category in found
        for candidate in (
            *(Candidate(category.id, text) for text in category.phrases),
            *(Candidate(category.id, crop.name, crop) for crop in category.crops),
        )
    ]


def proposals_for(vocabulary: Vocabulary, proposers: Iterable[str] = PROPOSERS) -> list[Candidate]:
    """Return what built-in vocabularies call a category that has the name, or a phrase, of one of this vocabulary.

    A phrase that two categories of this vocabulary would get, or that another one has, is proposed to neither.
    """
    named: dict[str, set[int]] = {}
    for category in vocabulary.categories:
        for text in (clean_phrase(category.name), *category.phrases):
            named.setdefault(phrase_key(text), set()).add(category.id)
    own = {phrase_key(text) for category in vocabulary.categories for text in category.phrases}
    found: dict[tuple[int, str], Candidate] = {}
    for proposer in proposers:
        for theirs in Vocabulary.load(proposer, synonyms=True).categories:
            words = {phrase_key(text): text for text in (*theirs.phrases, clean_phrase(theirs.name))}
            ours = set[int]().union(*(named.get(key, ()) for key in words))
            for id_ in ours - vocabulary.negative_ids:
                for key, text in words.items():
                    if key not in own:
                        found.setdefault((id_, key), Candidate(id_, text, proposed_by=proposer))
    claims = Counter(key for _, key in found)
    return [candidate for (id_, key), candidate in found.items() if claims[key] == 1 and named.get(key, {id_}) == {id_}]


def trial_vocabulary(vocabulary: Vocabulary, candidates: Sequence[Candidate]) -> Vocabulary:
    """Return a category for each candidate, with its number as id, and the vocabulary's negatives as they are."""
    names = {category.id: category.name for category in vocabulary.categories}
    asked = tuple(
        Category(
            number,
            f"{names[candidate.category_id]}: {candidate.text}",
            (candidate.text,) if candidate.crop is None else (),
            crops=() if candidate.crop is None else (candidate.crop,),
        )
        for number, candidate in enumerate(candidates)
    )
    negatives = (category for category in vocabulary.categories if category.negative)
    competing = tuple(
        Category(len(candidates) + place, category.name, category.phrases, negative=True, crops=category.crops)
        for place, category in enumerate(negatives)
    )
    return Vocabulary(f"{vocabulary.name}, each phrase", (*asked, *competing))


def usable(
    vocabulary: Vocabulary, candidates: Sequence[Candidate], planner: Planner, prompts: PromptsConfig
) -> tuple[list[Candidate], list[Candidate]]:
    """Return (the candidates that the checkpoint can look for, each once, by category; those that it cannot).

    The vocabulary's own come first, so that of phrases that read the same to the model a proposal is excluded.
    """
    ordered = sorted(candidates, key=lambda candidate: candidate.proposed_by is not None)  # stable
    trial = trial_vocabulary(vocabulary, ordered)
    problems = planner.check(trial, prompts).problems
    starts = {f"{trial.where(category)}:": number for number, category in enumerate(trial.categories)}
    refused = {number for start, number in starts.items() if any(problem.startswith(start) for problem in problems)}
    good = [candidate for number, candidate in enumerate(ordered) if number not in refused]
    places = {category.id: place for place, category in enumerate(vocabulary.categories)}
    good.sort(key=lambda candidate: places[candidate.category_id])
    return good, [ordered[number] for number in sorted(refused)]
