"""The plan of OWL-ViT and OWLv2: every phrase with the tokens of its prompts, all in one pass."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from labeler.digests import canonical_json, digest_of
from labeler.errors import Refused
from labeler.prompts.family import Cost


@dataclass(frozen=True)
class OwlPhrase:
    """A phrase, and what the encoders see of it.

    Attributes:
        text: its words; of a crop its digest.
        prompts: token ids of the phrase in each template, start and end included; () for a crop.
        crop: an image's encoded bytes; None for words.
    """

    category_id: int
    text: str
    prompts: tuple[tuple[int, ...], ...]
    crop: bytes | None = None

    def to_json(self) -> dict[str, Any]:
        if self.crop is not None:
            encoded = base64.b64encode(self.crop).decode()
            return {"category_id": self.category_id, "text": self.text, "image": encoded}
        return {"category_id": self.category_id, "text": self.text, "input_ids": [list(ids) for ids in self.prompts]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> OwlPhrase:
        """Return the inverse of `to_json`. Raises KeyError, TypeError or ValueError."""
        if "image" in data:
            crop = base64.b64decode(data["image"], validate=True)
            return OwlPhrase(int(data["category_id"]), str(data["text"]), (), crop)
        prompts = tuple(tuple(map(int, ids)) for ids in data["input_ids"])
        if not prompts or min(map(len, prompts)) < 3:
            raise ValueError("a prompt without a token")
        return OwlPhrase(int(data["category_id"]), str(data["text"]), prompts)


@dataclass(frozen=True)
class OwlPlan:
    """A `PromptPlan` of one pass.

    Attributes:
        phrases: in the order of their scores; those of negatives come last.
        templates: that the phrases are in.
    """

    family: str
    phrases: tuple[OwlPhrase, ...]
    templates: tuple[str, ...]
    negative_ids: frozenset[int] = frozenset()

    @property
    def passes(self) -> int:
        return 1

    @property
    def phrase_categories(self) -> tuple[tuple[int, ...], ...]:
        return (tuple(phrase.category_id for phrase in self.phrases),)

    @cached_property
    def fingerprint(self) -> str:
        return digest_of(canonical_json(self.to_json()))

    def lines(self) -> list[str]:
        templates = "1 template" if len(self.templates) == 1 else f"{len(self.templates)} templates"
        crops = sum(phrase.crop is not None for phrase in self.phrases)
        pictures = "" if not crops else " and 1 crop" if crops == 1 else f" and {crops} crops"
        words = f"{len(self.phrases) - crops:,} phrases in {templates}{pictures}"
        return [f"{words}, all in one pass of the detector per image"]

    def cost(self) -> Cost:
        return Cost("image encoder and heads", "product with every phrase")

    def settings(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "prompt_passes": 1,
            "prompt_phrases": len(self.phrases),
            "prompt_templates": list(self.templates),
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "negative_ids": sorted(self.negative_ids),
            "templates": list(self.templates),
            "phrases": [phrase.to_json() for phrase in self.phrases],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> OwlPlan:
        """Return the inverse of `to_json`. Raises Refused where the data cannot be what `to_json` wrote."""
        try:
            return OwlPlan(
                str(data["family"]),
                tuple(map(OwlPhrase.from_json, data["phrases"])),
                tuple(map(str, data["templates"])),
                frozenset(map(int, data["negative_ids"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"prompts.json: damaged: {type(error).__name__}: {error}") from None
