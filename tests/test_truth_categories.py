"""Categories of two lists meet by name."""

from __future__ import annotations

import unicodedata

from labeler.truth.categories import one_name, same_name
from labeler.vocabulary import Category

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def categories(*names: str) -> list[Category]:
    return [Category(number, name, (name,)) for number, name in enumerate(names, 1)]


def test_names_are_alike_but_for_case_underscores_spaces_and_composed_characters() -> None:
    ours = categories("Traffic light", COMPOSED, "dog")
    found = same_name(categories("traffic_light", DECOMPOSED, " DOG", "dogs"), ours)
    assert found == [*ours, None]


def test_the_very_spelling_comes_first() -> None:
    ours = categories(COMPOSED, DECOMPOSED)
    assert same_name(list(reversed(ours)), ours) == list(reversed(ours))
    assert one_name(ours, same_name(ours, ours)) == []


def test_two_of_theirs_that_are_one_of_ours_are_named() -> None:
    theirs = categories("cat", "CAT", "cow", "Cow")
    problems = one_name(theirs, same_name(theirs, categories("cat")))
    assert problems == ['"cat" (id 1) and "CAT" (id 2) are one name']
