"""Names per image from captions and tags: which words of a text are which category."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeler.cli import main
from labeler.labeling.names.of_field import NamesOfField
from labeler.labels.records import ALL_NAMES
from labeler.vocabulary import Vocabulary
from tests.inputs import image_bytes, tar_bytes
from tests.labeled_here import label_here
from tests.test_labeling_names import config_of, rows_of, said_of_refusal

VOCABULARY = Vocabulary.load(
    [
        {"id": 1, "name": "traffic_light", "phrases": ["traffic light", "stop signal"]},
        {"id": 2, "name": "light"},
        {"id": 3, "name": "Berry"},
        {"id": 4, "name": "bus"},
        {"id": 5, "name": "glasses"},
        {"id": 6, "name": "glass"},
        {"id": 7, "name": "bird of prey"},
        {"id": 8, "name": "café"},
        {"id": 9, "name": "light pole", "negative": True},
    ]
)


@pytest.mark.parametrize(
    ("text", "ids", "rest"),
    [
        ("A Traffic-light, two buses", {1, 4}, []),
        ("A TRAFFIC LIGHT near two buses.", {1, 4}, []),
        ("stop signals; berries", {1, 3}, []),
        ("a bird of prey on a light pole", {7, 2}, ["pole"]),
        ("some glasses and a glass", {5, 6}, []),
        ("the caf\u0065\u0301 of the old town", {8}, ["old town"]),
        ('["bus", "red kite", "traffic_light", 7]', {1, 4}, ["red kite"]),
        ("[]", set(), []),
        ("", set(), []),
        ("[a bus]", {4}, []),
    ],
)
def test_names_phrases_and_plurals_are_found_in_captions_and_tags(text: str, ids: set[int], rest: list[str]) -> None:
    assert NamesOfField.of("txt", VOCABULARY).read(text) == (ids, rest)


def tar_with(captions: dict[str, Any], extension: str) -> bytes:
    members = {}
    for number, (key, value) in enumerate(captions.items()):
        members[f"{key}.png"] = image_bytes(number)
        if value is not None:
            members[f"{key}.{extension}"] = value.encode() if extension == "txt" else json.dumps(value).encode()
    return tar_bytes(members)


def test_a_sidecar_says_the_names_of_its_image_and_is_not_kept(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "in").mkdir()
    captions = {
        "a": {"tags": ["cat", "red circles"]},
        "b": {"tags": []},
        "c": {"other": 1},
        "d": {"tags": "a dog and a bus"},
    }
    (tmp_path / "in/00000.tar").write_bytes(tar_with(captions, "json"))
    run = label_here(config_of(tmp_path, "out", checkpoint, prompts={"from": {"field": "json.tags"}}))
    found = [(row["status"], row["asked"], row["error"]) for row in rows_of(run)]
    assert found == [
        ("labeled", [1, 4], None),
        ("empty", [], None),
        ("labeled", None, ALL_NAMES),
        ("labeled", [2, 6], None),
    ]
    assert {d["category_id"] for d in rows_of(run)[0]["detections"]} <= {1, 4}
    assert "json.tags" not in rows_of(run)[0]
    assert run.manifest.fingerprint_fields["prompts.from"] == {"field": "json.tags", "version": 1}
    assert "prompts.from_score" not in run.manifest.fingerprint_fields


def test_a_column_says_the_names_of_its_row(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "in").mkdir()
    table = pa.table({"image": [image_bytes(1), image_bytes(2)], "caption": ["a cat on a bus", "nothing"]})
    pq.write_table(table, tmp_path / "in/part.parquet")
    prompts = {"from": {"field": "caption"}}
    run = label_here(config_of(tmp_path, "out", checkpoint, prompts=prompts))
    assert [row["asked"] for row in rows_of(run)] == [[1, 6], []]


def test_an_input_without_the_field_is_refused(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/00000.tar").write_bytes(tar_with({"a": "a cat", "b": None}, "txt"))
    capsys.readouterr()
    said = said_of_refusal(capsys, tmp_path, checkpoint, "prompts.from={field: json.tags}")
    assert "prompts.from: none of 2 images looked at has 'json.tags'" in said


def test_a_vocabulary_is_made_of_what_captions_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    captions = {"a": "A red kite and a dog", "b": "two dogs, a red kite", "c": None, "d": "a red kite"}
    (tmp_path / "in/00000.tar").write_bytes(tar_with(captions, "txt"))
    target = tmp_path / "names.txt"
    command = ["vocabulary", "from", str(tmp_path / "in"), "--field", "txt"]
    assert main([*command, "--output", str(target)]) == 0
    printed = capsys.readouterr().out
    assert "4 images, 3 of them with txt" in printed
    assert [category.name for category in Vocabulary.load(str(target)).categories] == ["red kite", "dog", "dogs"]
    assert "red kite  # 3 images" in target.read_text()
    assert main([*command, "--least", "2"]) == 0
    printed = capsys.readouterr().out
    assert "3  red kite" in printed
    assert "dogs" not in printed
    names = tmp_path / "own.txt"
    names.write_text("dog\nbus\n")
    assert main([*command, "--vocabulary", str(names)]) == 0
    printed = capsys.readouterr().out
    assert "1 of 2 categories are named, in 2 images" in printed
    assert "phrases that match no category: 1; the 1 most frequent" in printed
    assert "dogs" not in printed
    assert main(["vocabulary", "from", str(tmp_path / "in"), "--field", "json.tags"]) == 2
    assert "none of 4 images has 'json.tags'" in capsys.readouterr().err
    assert main([*command, "--output", str(target)]) == 2, "what is there stays"
