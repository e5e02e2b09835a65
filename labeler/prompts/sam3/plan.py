"""The plan of a family that looks for one phrase per pass: every phrase with its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from labeler.digests import canonical_json, digest_of
from labeler.errors import Refused
from labeler.prompts.family import Cost

NAME = "sam3"
TOKENS = 32  # of a phrase, start and end among them: as long as the text encoder was trained for


class TokenizedPhrase(NamedTuple):
    """A phrase of a category, and its token ids with start and end."""

    category_id: int
    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class PhrasePasses:
    """A `PromptPlan` of one pass a phrase."""

    phrases: tuple[TokenizedPhrase, ...]
    family: str = NAME

    @property
    def passes(self) -> int:
        return len(self.phrases)

    @property
    def phrase_categories(self) -> tuple[tuple[int, ...], ...]:
        return tuple((phrase.category_id,) for phrase in self.phrases)

    @property
    def negative_ids(self) -> frozenset[int]:
        """None: what is looked for alone competes with nothing."""
        return frozenset()

    @cached_property
    def fingerprint(self) -> str:
        return digest_of(canonical_json(self.to_json()))

    def padded(self) -> tuple[list[list[int]], list[list[int]]]:
        """Return (passes, TOKENS) ids, filled up with 0, and 1 where there is text."""
        gaps = [TOKENS - len(phrase.ids) for phrase in self.phrases]
        ids = [[*phrase.ids, *[0] * gap] for phrase, gap in zip(self.phrases, gaps, strict=True)]
        return ids, [[1] * (TOKENS - gap) + [0] * gap for gap in gaps]

    def lines(self) -> list[str]:
        return [f"{self.passes:,} passes of the detector per image, one for each phrase"]

    def cost(self) -> Cost:
        return Cost("image encoder", "encoder, decoder and heads, for one phrase")

    def settings(self) -> dict[str, Any]:
        return {"family": self.family, "prompt_passes": self.passes, "prompt_phrases": self.passes}

    def to_json(self) -> dict[str, Any]:
        phrases = [{"category_id": p.category_id, "text": p.text, "input_ids": list(p.ids)} for p in self.phrases]
        return {"family": self.family, "phrases": phrases}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> PhrasePasses:
        """Return the inverse of `to_json`. Raises Refused where the data cannot be what `to_json` wrote."""
        try:
            return PhrasePasses(
                tuple(
                    TokenizedPhrase(int(p["category_id"]), str(p["text"]), tuple(int(i) for i in p["input_ids"]))
                    for p in data["phrases"]
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"prompts.json: damaged: {type(error).__name__}: {error}") from None
