"""What messages about unknown words and many problems end with."""

from __future__ import annotations

import pytest

from labeler.errors import counted, did_you_mean, first_lines


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("catt", "; did you mean cat?"),
        ("DGO", "; did you mean Dog?"),
        ("bow", "; did you mean bow (weapon)?"),
        ("bo", ""),
        ("zebra", ""),
        ("", ""),
    ],
)
def test_an_unknown_word_is_named_with_the_nearest(word: str, hint: str) -> None:
    assert did_you_mean(word, ["cat", "Dog", "bow (weapon)"]) == hint


def test_many_lines_are_counted_and_the_first_shown() -> None:
    lines = [str(number) for number in range(1_005)]
    assert first_lines(lines, 2) == ["0", "1", "and 1,003 more"]
    assert first_lines(lines[:2], 2) == ["0", "1"]


def test_one_thing_is_no_plural() -> None:
    assert [counted(count, "image") for count in (0, 1, 1_234)] == ["0 images", "1 image", "1,234 images"]
