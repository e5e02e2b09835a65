"""The plan of families that look for every phrase in one pass: the phrases, in the order of their scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from labeler.digests import canonical_json, digest_of
from labeler.errors import Refused
from labeler.prompts.family import Cost
from labeler.vocabulary import Vocabulary


@dataclass(frozen=True)
class PhrasePlan:
    """A `PromptPlan` of one pass.

    Attributes:
        phrases: (category id, text) of each phrase; those of negatives come last.
    """

    family: str
    phrases: tuple[tuple[int, str], ...]
    negative_ids: frozenset[int] = frozenset()

    @staticmethod
    def of(family: str, vocabulary: Vocabulary) -> PhrasePlan:
        """Return every phrase of every category."""
        ordered = sorted(vocabulary.categories, key=lambda category: category.negative)  # stable
        phrases = tuple((category.id, text) for category in ordered for text in category.phrases)
        return PhrasePlan(family, phrases, vocabulary.negative_ids)

    @property
    def passes(self) -> int:
        return 1

    @property
    def phrase_categories(self) -> tuple[tuple[int, ...], ...]:
        return (tuple(category_id for category_id, _ in self.phrases),)

    @cached_property
    def fingerprint(self) -> str:
        return digest_of(canonical_json(self.to_json()))

    def lines(self) -> list[str]:
        return [f"{len(self.phrases):,} phrases, all in one pass of the detector per image"]

    def cost(self) -> Cost:
        return Cost("image encoder", "comparison with every phrase")

    def settings(self) -> dict[str, Any]:
        return {"family": self.family, "prompt_passes": 1, "prompt_phrases": len(self.phrases)}

    def to_json(self) -> dict[str, Any]:
        phrases = [{"category_id": category_id, "text": text} for category_id, text in self.phrases]
        return {"family": self.family, "negative_ids": sorted(self.negative_ids), "phrases": phrases}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> PhrasePlan:
        """Return the inverse of `to_json`. Raises Refused where the data cannot be what `to_json` wrote."""
        try:
            phrases = tuple((int(phrase["category_id"]), str(phrase["text"])) for phrase in data["phrases"])
            return PhrasePlan(str(data["family"]), phrases, frozenset(map(int, data["negative_ids"])))
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"prompts.json: damaged: {type(error).__name__}: {error}") from None
