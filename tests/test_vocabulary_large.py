"""Vocabularies in JSON files that are too large to be parsed at once."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

from labeler.vocabulary import Vocabulary
from labeler.vocabulary.reading import MAX_TEXT_BYTES
from tests.test_vocabulary import refusal
from tests.test_vocabulary_hints import coco_of


def write_large(path: Path, document: Any) -> Path:
    """The document as JSON, larger than what is parsed at once."""
    path.write_text(json.dumps(document))
    assert path.stat().st_size > MAX_TEXT_BYTES
    return path


LONG = "x" * 100_000


def test_large_annotations_are_read_as_small_ones_in_little_memory(tmp_path: Path) -> None:
    root, person, dog = (0, "things", "none"), (1, "person", "person"), (2, "dog", "things")
    for used in ([2], [0, 2]):
        small = coco_of(root, person, dog, used=used)
        (tmp_path / "small.json").write_text(json.dumps(small))
        more = [{"image_id": 1, "category_id": 2, "segmentation": {"counts": LONG}}] * 200
        images = [{"id": n, "file_name": "long" * 20} for n in range(1000)]
        large = small | {"annotations": small["annotations"] + more, "images": images}
        path = write_large(tmp_path / "large.json", large)
        tracemalloc.start()
        found = Vocabulary.load(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        expected = Vocabulary.load(tmp_path / "small.json")
        assert found.categories == expected.categories
        assert found.warnings == expected.warnings
        assert peak < path.stat().st_size, "the text alone is as long"


def test_large_lists_and_vocabularies_are_read_whole(tmp_path: Path) -> None:
    names = [f"thing {n} {LONG}" for n in range(50)]
    assert [c.name for c in Vocabulary.load(write_large(tmp_path / "list.json", names)).categories] == names
    mapping = {"name": "mine", "categories": names, "negative": ["sky"]}
    found = Vocabulary.load(write_large(tmp_path / "mapping.json", mapping))
    assert (found.name, len(found), len(found.negative_ids)) == ("mine", 51, 1)


def test_what_is_wrong_with_a_large_file_is_said_in_one_line(tmp_path: Path) -> None:
    path = write_large(tmp_path / "v.json", ["x"] * 1_000_000)
    assert "more than 100000 categories" in refusal(path)
    path = write_large(tmp_path / "v.json", [LONG] * 50)
    path.write_text(path.read_text()[:-1] + ",\n}")
    assert "v.json line 2: not JSON: Expecting value" in refusal(path)
    path = write_large(tmp_path / "v.json", {"annotations": [LONG] * 50, "categories": 5})
    assert "categories must be a list, got 5" in refusal(path)
    path.write_bytes(path.read_bytes() + b"\xff")
    assert "line 1: not JSON: not UTF-8" in refusal(path)
