"""From a vocabulary to the tokens of every phrase in every template, and every problem on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from labeler.digests import canonical_json, digest_of
from labeler.errors import Refused
from labeler.prompts.clip_tokenizer import ClipTokenizer
from labeler.rescorers.checkpoint import RescorerCheckpoint
from labeler.rescorers.siglip_tokenizer import SiglipTokenizer
from labeler.vocabulary import Vocabulary, refuse
from labeler.vocabulary.reading import show

TEMPLATES = ("a photo of a {}",)
BACKGROUND = ("background",)


@dataclass(frozen=True)
class EncodedPhrase:
    """A phrase and what the text encoder reads of it.

    Attributes:
        category: place in `Texts.category_ids`; -1 for the background.
        prompts: token ids of the phrase in each template, without padding.
    """

    category: int
    text: str
    prompts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Texts:
    """The texts that boxes are compared with; plain values, so that Ray can carry it to the workers.

    Attributes:
        category_ids: of the vocabulary, negatives included; the background is none of them.
        phrases: at least one of each category.
        pad_id: of the token that fills prompts up.
        length: to which all are filled; None: to the longest of a batch (the model does not look at the filling).
        pads_left: whether the filling comes first.
    """

    category_ids: tuple[int, ...]
    phrases: tuple[EncodedPhrase, ...]
    pad_id: int
    length: int | None
    pads_left: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """blake2b-128, hex, of all that is here."""
        return digest_of(canonical_json(self._to_json()))

    def _to_json(self) -> dict[str, Any]:
        return {
            "category_ids": list(self.category_ids),
            "phrases": [[phrase.category, [list(ids) for ids in phrase.prompts]] for phrase in self.phrases],
            "padding": [self.pad_id, self.length, self.pads_left],
        }


def make_texts(
    checkpoint: RescorerCheckpoint,
    vocabulary: Vocabulary,
    *,
    templates: Sequence[str] = TEMPLATES,
    background: Sequence[str] = BACKGROUND,
) -> Texts:
    """Spell a vocabulary for a checkpoint; no weights are needed.

    Args:
        templates: with `{}` once in each.
        background: texts that compete for each box and are not category, as they are; for CLIP alone.

    Raises:
        Refused: if the checkpoint has no tokenizer, or with every phrase that it cannot read.
    """
    compares = checkpoint.compares
    clip = ClipTokenizer.load(checkpoint.folder) if compares else None
    siglip = None if compares else SiglipTokenizer.load(checkpoint.folder)
    speller = _Speller(checkpoint, clip, siglip)
    ids = speller.add_vocabulary(vocabulary, templates)
    for text in background if compares else ():
        speller.add(-1, text, ("{}",), "rescore.background: ")
    if speller.problems:
        raise refuse(vocabulary.name, speller.problems)
    if compares and len({phrase.category for phrase in speller.phrases}) < 2:
        raise Refused(
            "rescore.background is empty and the vocabulary has one category, so every second score would be 1; "
            "leave rescore.background out"
        )
    if clip is not None:
        return Texts(tuple(ids), tuple(speller.phrases), clip.end_id, None)
    assert siglip is not None
    return Texts(tuple(ids), tuple(speller.phrases), siglip.pad_id, checkpoint.max_tokens, siglip.pads_left)


class _Speller:
    """A collector of phrases and their problems."""

    def __init__(
        self, checkpoint: RescorerCheckpoint, clip: ClipTokenizer | None, siglip: SiglipTokenizer | None
    ) -> None:
        self._checkpoint, self._clip = checkpoint, clip
        tokenizer = clip or siglip
        assert tokenizer is not None
        self._ids_of = tokenizer.ids
        self.phrases: list[EncodedPhrase] = []
        self.problems: list[str] = []

    def add_vocabulary(self, vocabulary: Vocabulary, templates: Sequence[str]) -> list[int]:
        """Add every phrase; returns the ids of the categories. A negative category without a phrase is skipped."""
        ids: list[int] = []
        for category in vocabulary.categories:
            texts, where = list(dict.fromkeys(category.phrases)), vocabulary.where(category)
            if not texts and not category.negative:
                self.problems.append(f"{where}: it has crops and no phrase; a second score needs a phrase")
            if not texts:
                continue
            for text in texts:
                self.add(len(ids), text, templates, f"{where}: phrase ")
            ids.append(category.id)
        return ids

    def add(self, category: int, text: str, templates: Sequence[str], where: str) -> None:
        """Add one phrase in each template."""
        prompts = tuple(tuple(self._ids_of(template.replace("{}", text))) for template in templates)
        if problem := self._problem(prompts):
            self.problems.append(f"{where}{show(text)} {problem}")
        self.phrases.append(EncodedPhrase(category, text, prompts))

    def _problem(self, prompts: tuple[tuple[int, ...], ...]) -> str | None:
        longest, most = max(map(len, prompts)), self._checkpoint.max_tokens
        if longest > most:
            return f"is too long: {longest} tokens in a template, the model reads {most}; use fewer words"
        if any(len(ids) < (3 if self._clip else 2) for ids in prompts):
            return "has no letter that the tokenizer knows; use other words"
        specials = (self._clip.start_id, self._clip.end_id) if self._clip else ()
        if any(number in specials for ids in prompts for number in ids[1:-1]):
            return "is partly unknown to the tokenizer; use other words"
        size = self._checkpoint.text_config.get("vocab_size")
        if isinstance(size, int) and max(max(ids) for ids in prompts) >= size:
            return f"has a token beyond the model's {size}; the tokenizer is of another checkpoint"
        return None


def padded(texts: Texts, prompts: Sequence[tuple[int, ...]]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield (token ids, 1 for what is not a filling) of each prompt, all of one length."""
    length = texts.length or max(map(len, prompts))
    for ids in prompts:
        filling = length - len(ids)
        tokens, mask = [*ids], [1] * len(ids)
        if texts.pads_left:
            yield [texts.pad_id] * filling + tokens, [0] * filling + mask
        else:
            yield tokens + [texts.pad_id] * filling, mask + [0] * filling
