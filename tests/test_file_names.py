from __future__ import annotations

import unicodedata

import pytest

from labeler.errors import Refused
from labeler.file_names import NameIndex, comparable, last_part
from labeler.runs.erasure.named_images import NamedImage, name_images

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "bär/é.jpg") for form in ("NFC", "NFD"))
WINDOWS = DECOMPOSED.replace("/", "\\")


def test_spellings_of_one_name_are_equal_and_other_names_are_not() -> None:
    assert COMPOSED != DECOMPOSED
    assert {comparable(name) for name in (COMPOSED, DECOMPOSED, WINDOWS)} == {COMPOSED}
    assert comparable("a\\b.jpg") == "a/b.jpg"
    assert comparable("a.JPG") != comparable("a.jpg")
    assert comparable("\udcff.jpg") == "\udcff.jpg"  # a byte that is not UTF-8
    assert [last_part(name) for name in ("a/b\\c.jpg", "c.jpg", "a\\b/c.jpg", "")] == ["c.jpg"] * 3 + [""]


def test_the_very_spelling_is_found_before_any_other() -> None:
    index = NameIndex([COMPOSED, "x.jpg", DECOMPOSED, "x.jpg"])
    assert (index.find(COMPOSED), index.find(DECOMPOSED), index.find(WINDOWS)) == ([0], [2], [0, 2])
    assert (index.find("x.jpg"), index.find("y.jpg")) == ([1, 3], [])
    assert COMPOSED in index
    assert WINDOWS not in index
    assert NameIndex([]).find("x") == []


def images(*file_names: str) -> dict[int, NamedImage]:
    return {n: NamedImage(name.partition(".tar/")[2] or name, name, {f"{n:032x}"}) for n, name in enumerate(file_names)}


@pytest.mark.parametrize("name", [COMPOSED, DECOMPOSED, WINDOWS, "p.tar/" + WINDOWS, "p.tar\\" + COMPOSED])
def test_an_image_is_meant_by_any_spelling_of_its_name_or_key(name: str) -> None:
    for stored in (COMPOSED, DECOMPOSED, WINDOWS):
        named = name_images(images("p.tar/" + stored), [name])
        assert (list(named.images), named.unknown, named.in_any_spelling) == ([0], [], {"p.tar/" + stored})


def test_of_two_spellings_the_very_one_is_meant_and_a_third_is_refused_with_both_names() -> None:
    both = images("p.tar/" + COMPOSED, "p.tar/" + DECOMPOSED)
    for name, place in (("p.tar/" + COMPOSED, 0), (DECOMPOSED, 1)):
        named = name_images(both, [name])
        assert (list(named.images), named.in_any_spelling) == ([place], set())
    with pytest.raises(Refused, match="differ only in how they are spelled") as refused:
        name_images(both, [WINDOWS])
    (problem,) = refused.value.problems
    assert all(ascii("p.tar/" + name) in problem for name in (COMPOSED, DECOMPOSED))
    assert name_images(both, ["p.tar/" + COMPOSED, "p.tar/" + DECOMPOSED]).in_any_spelling == {
        "p.tar/" + COMPOSED,
        "p.tar/" + DECOMPOSED,
    }


def test_an_image_that_is_meant_by_its_digest_is_not_named_in_any_spelling() -> None:
    named = name_images(images(COMPOSED), [f"{0:032x}", "nobody.jpg"])
    assert (list(named.images), named.unknown, named.in_any_spelling) == ([0], ["nobody.jpg"], set())
