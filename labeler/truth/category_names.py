"""Which categories of two lists are the same: the name decides, however it is spelled."""

from __future__ import annotations

from collections.abc import Sequence

from labeler.file_names import comparable
from labeler.vocabulary import Category
from labeler.vocabulary.reading import clean_phrase, phrase_key


def same_name(theirs: Sequence[Category], ours: Sequence[Category]) -> list[Category | None]:
    """Return for each of `theirs` the category of `ours` with the same name; None if there is none.

    Names are alike but for case, underscores, spaces and composed characters; one in the very spelling comes first.
    """
    alike = {_key(category): category for category in ours}
    exact = {category.name: category for category in ours}
    return [exact.get(category.name) or alike.get(_key(category)) for category in theirs]


def one_name(theirs: Sequence[Category], found: Sequence[Category | None]) -> list[str]:
    """Return a problem for each of their categories that is the same as one before it; `found` is from `same_name`."""
    first: dict[int, Category] = {}
    problems = []
    for category, ours in zip(theirs, found, strict=True):
        if ours is not None and (other := first.setdefault(ours.id, category)) is not category:
            problems.append(f'"{other.name}" (id {other.id}) and "{category.name}" (id {category.id}) are one name')
    return problems


def _key(category: Category) -> str:
    return phrase_key(comparable(clean_phrase(category.name)))
