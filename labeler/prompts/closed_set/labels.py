"""A checkpoint's own labels, and which of them stand for a vocabulary's categories."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from labeler.errors import Refused, did_you_mean
from labeler.vocabulary import Category, Vocabulary
from labeler.vocabulary.reading import clean_phrase, phrase_key, show

_NAMELESS = re.compile(r"n/a|label_\d+", re.IGNORECASE)  # numbers that COCO skips, and transformers' own fillers
_MAX_LABELS = 100_000
# Pascal VOC's spellings of what COCO calls otherwise, which some checkpoints trained on COCO carry.
_SPELLINGS = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
OPTION = "model.labels"


@dataclass(frozen=True)
class Label:
    """A label of a checkpoint, by the number of its column among the scores."""

    column: int
    text: str

    @property
    def named(self) -> bool:
        """Return whether the text is a name that people gave."""
        return bool(self.text.strip()) and not _NAMELESS.fullmatch(self.text.strip())

    @property
    def key(self) -> str:
        """Equal for labels and phrases that read the same."""
        return phrase_key(clean_phrase(self.text))


def labels_of(config: Mapping[str, Any], name: str) -> tuple[Label, ...]:
    """Return the labels in a config.json in the order of their columns.

    Args:
        name: of the checkpoint, for the refusal.

    Raises:
        Refused: they are damaged.
    """
    named = config.get("id2label")
    if named is None:
        count = config.get("num_labels", 2)  # transformers' own default
        named = {number: f"LABEL_{number}" for number in range(count if isinstance(count, int) else 0)}
    try:
        labels = tuple(Label(int(number), str(text)) for number, text in named.items())
    except (AttributeError, TypeError, ValueError):
        labels = ()
    ordered = tuple(sorted(labels, key=lambda label: label.column))
    if not 0 < len(ordered) <= _MAX_LABELS or [label.column for label in ordered] != list(range(len(ordered))):
        raise Refused(f"checkpoint {name}: id2label in its config.json does not name the labels 0, 1, 2, ...")
    return ordered


@dataclass(frozen=True)
class LabelMap:
    """The labels of a checkpoint with what the config says of them.

    Attributes:
        labels: of the checkpoint.
        chosen: `model.labels`: label -> name of its category.
    """

    labels: tuple[Label, ...]
    chosen: Mapping[str, str]

    def category_name(self, label: Label) -> str | None:
        """Return what the config says that a label stands for; its own spelling counts before others that read the
        same.
        """
        return self.chosen.get(label.text, self._by_key.get(label.key) if label.named else None)

    @property
    def _by_key(self) -> dict[str, str]:
        """The chosen names by key, of texts that are not exactly a label."""
        exact = {label.text for label in self.labels}
        return {Label(0, text).key: name for text, name in self.chosen.items() if text not in exact}

    def matches(self, vocabulary: Vocabulary) -> list[tuple[Category, Label]]:
        """Return every label that stands for a category, in the vocabulary's order, those of negatives last."""
        by_name = {category.name: category for category in vocabulary.categories}
        by_key = {key: categories[0] for key, categories in _owners(vocabulary).items()}
        found = []
        for label, name in zip(self.labels, map(self.category_name, self.labels), strict=True):
            if name is not None:
                category = by_name.get(name)
            else:
                category = by_key.get(label.key, by_key.get(_SPELLINGS.get(label.key, ""))) if label.named else None
            if category is not None:
                found.append((category, label))
        order = {category.id: place for place, category in enumerate(vocabulary.categories)}
        return sorted(found, key=lambda pair: (pair[0].negative, order[pair[0].id], pair[1].column))

    def problems(self, vocabulary: Vocabulary) -> list[str]:
        """Return the mismatches between the labels, the map and the vocabulary, one line each."""
        return [
            *self._unknown_labels(),
            *self._unknown_categories(vocabulary),
            *self._ambiguous(vocabulary),
            *self._uncovered(vocabulary),
        ]

    def _ambiguous(self, vocabulary: Vocabulary) -> Iterator[str]:
        """Labels that read like phrases of several categories."""
        owners = _owners(vocabulary)
        for label in self.labels:
            several = owners.get(label.key, []) if label.named and self.category_name(label) is None else []
            if len(several) > 1:
                names = " and ".join(show(category.name) for category in several)
                yield f"{OPTION}: the label {show(label.text)} fits {names}; map it to one of them"

    def _unknown_labels(self) -> Iterator[str]:
        texts, keys = {label.text for label in self.labels}, {label.key for label in self.labels if label.named}
        for text in self.chosen:
            if text not in texts and Label(0, text).key not in keys:
                yield f"{OPTION}: the checkpoint has no label {show(text)}{did_you_mean(text, self.names)}"

    def _unknown_categories(self, vocabulary: Vocabulary) -> Iterator[str]:
        names = [category.name for category in vocabulary.categories]
        for text, name in self.chosen.items():
            if name not in names:
                yield f"{OPTION}: {show(text)} is mapped to {show(name)}, which is not a category of the vocabulary" + (
                    did_you_mean(name, names)
                )

    def _uncovered(self, vocabulary: Vocabulary) -> Iterator[str]:
        covered = {category.id for category, _ in self.matches(vocabulary)}
        for category in vocabulary.categories:
            if category.id not in covered:
                near = did_you_mean(clean_phrase(category.name), self.names)
                me = vocabulary.where(category)
                yield f"{me}: no label of the checkpoint stands for it{near}; map one to it in {OPTION}"

    @property
    def names(self) -> list[str]:
        """The labels that are names."""
        return [label.text for label in self.labels if label.named]

    def vocabulary(self, name: str) -> Vocabulary:
        """Return the checkpoint's own: a category for each name, renamed as the config says.

        Ids are the checkpoint's numbers; labels of one name are one category with the least of them.

        Args:
            name: of the checkpoint.

        Raises:
            Refused: no label has a name.
        """
        categories: dict[str, dict[str, Any]] = {}
        for label in self.labels:
            text = self.category_name(label) or (label.text.strip() if label.named else None)
            if text is not None:
                categories.setdefault(phrase_key(clean_phrase(text)), {"id": label.column, "name": text})
        if not categories:
            raise Refused(f"vocabulary from_model: no label of checkpoint {name} has a name; give them in {OPTION}")
        return Vocabulary.from_json({"name": "from_model", "categories": list(categories.values())})


def _owners(vocabulary: Vocabulary) -> dict[str, list[Category]]:
    """Return the categories of each key, of their names and phrases, in the vocabulary's order."""
    owners: dict[str, list[Category]] = {}
    for category in vocabulary.categories:
        for key in {phrase_key(clean_phrase(text)) for text in (*category.phrases, category.name)}:
            owners.setdefault(key, []).append(category)
    return owners
