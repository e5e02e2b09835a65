"""Names per image by what a sidecar or column says of it: tags, or the phrases of a caption."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from labeler import plain_json
from labeler.file_names import comparable
from labeler.shards import Item
from labeler.vocabulary import Vocabulary
from labeler.vocabulary.reading import clean_phrase, phrase_key

VERSION = 1  # raised when the same text would be asked for other names; in the fingerprint
_ENDS = re.compile(r"[,;:.!?|/()\[\]{}\"\n\r\t]+")
_WORD = re.compile(r"[\w']*\w")
_BETWEEN = """
a about above across after against all along also among an and another any are around as at away back be been
before behind being below beside between both but by can close coming did do does doing down during each eating few
five for four from front full getting going has have having he her him his holding in inside into is it its just
large laying left lot looking lying many more most near next no not of off on one onto or other out over parked
placed playing right riding several she showing side sitting small some standing such taken than that the their
them there these they this those three through to top toward towards two under up upon very view walking was
wearing were where which while who with without
"""
STOP_WORDS = frozenset(_BETWEEN.split())  # between names, where a caption is cut into phrases
Words = tuple[str, ...]


@dataclass(frozen=True)
class NamesOfField:
    """The categories whose names or phrases a text has; a `NamesSource`, and what it loads.

    Attributes:
        field: a sidecar or column, named as in `input.keep`.
        category_ids: by the words of names and phrases.
    """

    field: str
    category_ids: Mapping[Words, int]
    is_large: ClassVar = False

    @staticmethod
    def of(field: str, vocabulary: Vocabulary) -> NamesOfField:
        """Return names, phrases and their plurals; a plural that is another category's own name is that one's."""
        own: dict[Words, int] = {}
        for category in vocabulary.categories:
            if not category.negative:
                for text in (category.name, *category.phrases):
                    own.setdefault(words_of(text), category.id)
        plurals = {plural: id_ for words, id_ in own.items() if words for plural in _plurals(words)}
        return NamesOfField(field, {words: id_ for words, id_ in (plurals | own).items() if words})

    @property
    def fields(self) -> dict[str, Any]:
        return {"prompts.from": {"field": self.field, "version": VERSION}}

    def load(self) -> NamesOfField:
        return self

    def asked(self, item: Item) -> tuple[int, ...] | None:
        """As of `NamesPerImage`; None where the image has no such text."""
        text = item.kept.get(self.field)
        return None if text is None else tuple(sorted(self.read(text)[0]))

    def read(self, text: str) -> tuple[set[int], list[str]]:
        """Return (ids of the categories in a text, its phrases that are none).

        In a list every tag is a phrase. Other text is cut at punctuation, and what matches nothing at the words between
        names, too. The longest match counts: a hot dog is not a dog.
        """
        found, rest = set[int](), list[str]()
        tags = _tags(text)
        for segment in _ENDS.split(text) if tags is None else tags:
            ids, left = self._match(words_of(segment))
            found |= ids
            rest += left if tags is None else [" ".join(words_of(segment))] if not ids and words_of(segment) else []
        return found, rest

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.category_ids), default=0)

    def _match(self, words: Words) -> tuple[set[int], list[str]]:
        found, between, at = set[int](), list[list[str]]([[]]), 0
        while at < len(words):
            sizes = range(min(self._longest, len(words) - at), 0, -1)
            size = next((n for n in sizes if words[at : at + n] in self.category_ids), 0)
            if size:
                found.add(self.category_ids[words[at : at + size]])
            if size or words[at] in STOP_WORDS:
                between.append([])
            else:
                between[-1].append(words[at])
            at += size or 1
        return found, [" ".join(run) for run in between if run]


def words_of(text: str) -> Words:
    """Return the words of a name, however it is spelled."""
    return tuple(_WORD.findall(phrase_key(comparable(clean_phrase(text)))))


def _tags(text: str) -> Sequence[str] | None:
    """Return the tags of a JSON list; None for any other text."""
    if not text.lstrip().startswith("["):
        return None
    try:
        values = plain_json.parse(text)
    except ValueError:
        return None
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else None


def _plurals(words: Words) -> Iterator[Words]:
    *first, last = words
    if last.endswith("y") and last[-2:-1] not in tuple("aeiou"):
        yield (*first, f"{last[:-1]}ies")
    yield (*first, f"{last}es" if last.endswith(("s", "x", "z", "ch", "sh", "o")) else f"{last}s")
