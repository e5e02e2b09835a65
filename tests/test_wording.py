"""The project's English: phrases of tests/wording.py stay out of code, docs and comments."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.wording import EXCEPTIONS, PHRASES, files, hits_in, hits_of, prose_of, room_of

# Hits that are left in each package or folder: lower a number when you remove some. New ones fail.
LEFT: dict[str, int] = {
    "tests": 13,
}


def test_no_package_or_folder_has_more_of_these_phrases_than_before() -> None:
    hits = [hit for file in files() for hit in hits_of(file)]
    counts = Counter(room_of(hit.file) for hit in hits)
    grown = {room for room, count in counts.items() if count > LEFT.get(room, 0)}
    shown = [
        f"{hit.file}:{hit.line}: {hit.phrase} ({PHRASES[hit.phrase][2]}): {hit.text}"
        for hit in hits
        if room_of(hit.file) in grown
    ]
    assert not shown, "\n".join(shown)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ('x = "made anew now"', [1]),
        ("\nx = 1  # made so\n# many", [2]),
        ('def f():\n    """Made\n    anew: so\n    many."""', [3, 3]),
        ('log(\n    "it is so "\n    f"many {anew()} s"\n)', [2]),
        ("anew = 'anew'  # `anew` so", []),
        ("x = 1  # so\nmany = 1  # many", []),
        ('x = "nothing: `anew b`", b"so many"', []),
    ],
)
def test_hits_of_python_are_in_comments_and_in_literals_with_a_space(source: str, lines: list[int]) -> None:
    assert [hit.line for hit in hits_in("a.py", source)] == lines


def test_hits_of_markdown_are_not_in_code_and_targets() -> None:
    page = "# Anew\n\n```bash\nnor\n```\n\n    begun\n\n- `surely` [apart](roof.md#whoever)\n\n    so many\n"
    assert [(hit.line, hit.phrase) for hit in hits_in("a.md", page)] == [(1, "anew"), (9, "apart"), (11, "so many")]


def test_hits_of_other_files_are_in_their_comments() -> None:
    assert [hit.line for hit in hits_in("a.yaml", "a: nor\nb: 'x#nor'  # so many")] == [2]


@pytest.mark.parametrize(
    "text", ["there is no box", "is no longer", "is no larger than", "a forward pass", "ground truth"]
)
def test_plain_english_is_not_found(text: str) -> None:
    assert hits_in("a.md", text) == []


def test_every_exception_is_needed() -> None:
    for (file, part), why in EXCEPTIONS.items():
        assert why
        assert not part or part in " ".join(prose_of(file).split()), f"{file} no longer says {part!r}"
