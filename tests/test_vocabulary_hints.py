"""Vocabularies that are probably not meant: read as they are written, and warned about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labeler.prompts.text import describe
from labeler.vocabulary import BUILT_IN, Vocabulary


def warnings_of(spec: Any) -> list[str]:
    return list(Vocabulary.load(spec).warnings)


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("cat, dog, car", "has a comma"),
        ("0: person", "begins with a number"),
        ("12. person", "begins with a number"),
        ("3) person", "begins with a number"),
        ("- person", "begins with a bullet"),
        ("* person", "begins with a bullet"),
        ('"person"', "is in quotes"),
        ("\u201cperson\u201d", "is in quotes"),
        ("per\u200bson", "(U+200B)"),
        ("\ufeffperson", "(U+FEFF)"),
    ],
)
def test_a_line_that_is_probably_not_meant_is_warned_about_and_read_as_written(
    tmp_path: Path, line: str, warning: str
) -> None:
    (tmp_path / "v.txt").write_text(f"bus\n{line}\n", encoding="utf-8")
    (found,) = warnings_of(tmp_path / "v.txt")
    assert found.startswith("line 2: ")
    assert warning in found
    assert f"warning: {found}" in describe(Vocabulary.load(tmp_path / "v.txt"), None)
    assert Vocabulary.load(tmp_path / "v.txt").categories[1].name == line
    assert len(warnings_of(["bus", line])) == 1, "in a list, too"


def test_ordinary_names_are_not_warned_about() -> None:
    ordinary = ["7 up", "3.5 mm jack", "3d printer", "bow_(weapon)", "bread/bun", "x-ray", "rock 'n' roll", "c#"]
    assert warnings_of(ordinary) == []
    assert [warnings_of(name) for name in BUILT_IN] == [[], [], []]


def coco_of(*categories: tuple[int, str, str], used: list[int]) -> dict[str, Any]:
    keys = ("id", "name", "supercategory")
    annotations = [{"id": n, "image_id": 1, "category_id": id_} for n, id_ in enumerate(used)]
    return {
        "images": [],
        "annotations": annotations,
        "categories": [dict(zip(keys, c, strict=True)) for c in categories],
    }


def test_a_root_that_nothing_is_annotated_as_is_warned_about(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    root, person, dog = (0, "things", "none"), (1, "person", "person"), (2, "dog", "things")
    path.write_text(json.dumps(coco_of(root, person, dog, used=[2])))
    (warning,) = warnings_of(path)
    assert 'entry 1: "things" has no annotation and is the supercategory of others' in warning
    path.write_text(json.dumps(coco_of(root, person, dog, used=[0, 2])))
    assert warnings_of(path) == [], "it has objects of its own"
    path.write_text(json.dumps(coco_of(person, dog, used=[2])))
    assert warnings_of(path) == [], "COCO's person is its own supercategory"
