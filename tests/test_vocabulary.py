"""Vocabularies from every source, and every problem named at once."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeler.errors import Refused
from labeler.prompts.text import describe, list_built_in, show_categories
from labeler.vocabulary import BUILT_IN, Category, Vocabulary


def refusal(spec: Any, **keywords: Any) -> str:
    """Message and problems, one line per problem."""
    with pytest.raises(Refused) as caught:
        Vocabulary.load(spec, **keywords)
    assert "\n" not in str(caught.value)
    assert not any("\n" in problem for problem in caught.value.problems)
    return "\n".join([str(caught.value), *caught.value.problems])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("v.txt", ""),
        ("v.txt", "# only a comment\n\n"),
        ("v.json", "[]"),
        ("v.yaml", ""),
        ("v.yaml", "[]"),
        ("v.yml", "#"),
    ],
)
def test_an_empty_vocabulary_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    message = refusal(tmp_path / name)
    assert str(tmp_path / name) in message
    assert "name at least one" in message or "empty" in message


def test_an_empty_list_and_only_negatives_are_refused() -> None:
    assert "name at least one" in refusal([])
    assert "name at least one" in refusal([{"name": "sky", "negative": True}])


def test_coco_has_its_official_ids() -> None:
    coco = Vocabulary.load("coco")
    assert len(coco) == 80
    assert (coco.categories[0].id, coco.categories[-1].id) == (1, 90)
    assert {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}.isdisjoint(coco.by_id)
    assert coco.by_id[10] == Category(10, "traffic light", ("traffic light",), supercategory="outdoor")


def test_lvis_keeps_official_names_frequencies_and_parentheses() -> None:
    lvis = Vocabulary.load("lvis_v1")
    assert [c.id for c in lvis.categories] == list(range(1, 1204))
    assert lvis.by_id[1] == Category(1, "aerosol_can", ("aerosol can",), frequency="c")
    counts = {f: sum(c.frequency == f for c in lvis.categories) for f in "rcf"}
    assert counts == {"r": 337, "c": 461, "f": 405}  # LVIS v1's own counts
    bows = [c.phrases for c in lvis.categories if c.name.startswith("bow_(")]
    assert bows == [("bow (weapon)",), ("bow (decorative ribbons)",)]


def test_objects365_tells_bread_from_bread_or_bun() -> None:
    objects = Vocabulary.load("objects365_v1")
    assert [c.id for c in objects.categories] == list(range(1, 366))
    assert (objects.by_id[60].name, objects.by_id[333].name) == ("bread", "bread/bun")


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("synonyms", [False, True])
def test_built_in_vocabularies_have_one_category_for_each_phrase(name: str, synonyms: bool) -> None:
    vocabulary = Vocabulary.load(name, synonyms=synonyms)
    assert len(vocabulary) == BUILT_IN[name]
    phrases = [phrase.lower() for c in vocabulary.categories for phrase in c.phrases]
    assert len(set(phrases)) == len(phrases)
    assert not [p for p in phrases if set(p) & set(".?,_\t") or p != " ".join(p.split())]
    if not synonyms:
        assert all(len(c.phrases) == 1 for c in vocabulary.categories)


def test_synonyms_are_added_and_those_of_two_categories_are_dropped_by_name() -> None:
    lvis = Vocabulary.load("lvis_v1", synonyms=True)
    assert lvis.by_id[1].phrases == ("aerosol can", "spray can")
    assert sum(len(c.phrases) for c in lvis.categories) > 1800
    objects = Vocabulary.load({"name": "objects365_v1", "synonyms": True})
    assert objects.by_id[333].phrases == ("bread/bun", "bun")
    assert objects.warnings == ('synonym "bread" of "bread/bun" dropped: another category claims it, too',)


def test_an_unknown_name_suggests_the_near_one() -> None:
    assert "did you mean coco?" in refusal("coko")
    assert "did you mean lvis_v1?" in refusal("lvis")
    assert "did you mean objects365_v1?" in refusal("Objects365")
    assert "coco, lvis_v1, objects365_v1" in refusal("zzzz")


@pytest.mark.parametrize("spec", [b"coco", 7, None, True])
def test_a_spec_of_another_type_is_refused(spec: Any) -> None:
    assert "expected a name, a path or a list" in refusal(spec)


def test_a_text_file_has_a_category_a_line_with_synonyms_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "pets.txt"
    path.write_bytes(
        b"\xef\xbb\xbf# pets\r\ncat / house cat / Cat\r\n\r\n  traffic_light # a comment\r\nc#\nA/C unit\n"
    )
    pets = Vocabulary.load(str(path))
    assert pets.name == "pets"
    assert pets.categories == (
        Category(1, "cat", ("cat", "house cat")),
        Category(2, "traffic_light", ("traffic light",)),
        Category(3, "c#", ("c#",)),
        Category(4, "A/C unit", ("A/C unit",)),
    )
    assert pets.where(pets.by_id[2]) == 'line 4: category 2 "traffic_light"'


def test_all_problems_come_at_once_each_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_text("cat\ncat\ndog / / puppy\nbi\x07rd\nkitten / cat\n")
    with pytest.raises(Refused) as caught:
        Vocabulary.load(path)
    assert "4 problems" in str(caught.value)
    assert caught.value.exit_code == 2
    starts = [problem.split(":")[0] for problem in caught.value.problems]
    assert sorted(starts) == ["line 2", "line 3", "line 4", "line 5"]
    assert any("U+0007" in problem for problem in caught.value.problems)


YAML = """\
- cat / house cat
- {id: 7, name: dog}
- name: sky
  negative: true
  phrases: [blue sky, sky]
"""


def test_a_yaml_list_takes_lines_and_mappings(tmp_path: Path) -> None:
    path = tmp_path / "v.yaml"
    path.write_text(YAML.replace("{id: 7, name: dog}", "dog"))
    vocabulary = Vocabulary.load(path)
    assert vocabulary.categories == (
        Category(1, "cat", ("cat", "house cat")),
        Category(2, "dog", ("dog",)),
        Category(3, "sky", ("blue sky", "sky"), negative=True),
    )
    assert vocabulary.negative_ids == {3}
    path.write_text(YAML)
    message = refusal(path)
    assert 'line 1: "cat" has no id' in message
    assert 'line 3: "sky" has no id' in message


def test_a_mapping_has_categories_a_name_and_negatives(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    path.write_text(json.dumps({"name": "pets", "categories": [{"id": 5, "name": "cat"}], "negative": ["sky", "wall"]}))
    vocabulary = Vocabulary.load(path)
    assert vocabulary.name == "pets"
    assert [(c.id, c.name, c.negative) for c in vocabulary.categories] == [
        (5, "cat", False),
        (6, "sky", True),
        (7, "wall", True),
    ]
    assert Vocabulary.load({"name": "coco", "negative": ["sky"]}).by_id[91].negative


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("{nam: cat}", "did you mean name?"),
        ("{name: cat, synonyms: [kitty]}", 'unknown key "synonyms"'),
        ("no", "got false; put it in quotes"),
        ("{name: 1}", "got 1; put it in quotes"),
        ("{name: cat, id: '7'}", "whole number, got text"),
        ("{name: cat, id: true}", "whole number, got true"),
        ("{name: cat, id: -1}", "ids go from 0 to 2147483647"),
        ("{name: cat, id: 2147483648}", "ids go from 0 to 2147483647"),
        ("{name: cat, negative: 1}", "must be true or false"),
        ("{name: cat, phrases: kitty}", "must be a list of texts, got text"),
        ("{name: cat, phrases: []}", "leave it out"),
        ("{name: cat, phrases: [yes]}", "put it in quotes"),
        ("{name: cat, phrases: ['']}", "empty phrase"),
        ("{name: '_'}", "empty name"),
        ('{name: "a\\nb"}', "U+000A"),
        ('{name: "a\\u2028b"}', "U+2028"),
        ("{id: 3}", "it is missing"),
        ("[cat]", "got a list"),
        ("null", "got nothing"),
    ],
)
def test_a_bad_entry_is_refused_with_its_line(tmp_path: Path, item: str, says: str) -> None:
    path = tmp_path / "v.yaml"
    path.write_text(f"# vocabulary\ncategories:\n- {item}\n")
    message = refusal(path)
    assert "line 3" in message
    assert says in message


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("v.yaml", "- &a cat\n- *a\n", "line 2: not usable as YAML: aliases"),
        ("v.yaml", "- !!python/object/apply:os.getcwd []\n", "line 1: not usable as YAML"),
        ("v.yaml", "- {name: cat, name: dog}\n", 'key "name" is given twice'),
        ("v.yaml", "- [\n", "not usable as YAML"),
        ("v.yaml", "[" * 5000, "not usable as YAML"),
        ("v.yaml", "- 2024-99-99\n", "not usable as YAML"),
        ("v.yaml", "kategories: []\n", "no `categories`"),
        ("v.yaml", "cat\n", "must be a list, got text"),
        ("v.yaml", "categories: {1: cat}\n", "must be a list, got a mapping"),
        ("v.yaml", "categories: [cat]\nnegativ: [sky]\n", "did you mean negative?"),
        ("v.yaml", "categories: [cat]\nnegative: sky\n", "must be a list of phrases"),
        ("v.yaml", "categories: [cat]\nname: [1]\n", "name must be text"),
        ("v.json", "[1,\n}", "line 2: not JSON"),
        ("v.json", "[" * 100_000, "not usable as JSON"),
        ("v.json", '[{"name": "cat", "name": "dog"}]', 'key "name" is given twice'),
        ("v.json", '["\\ud800"]', "U+D800"),
        ("v.json", '"cat"', "must be a list"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    message = refusal(tmp_path / name)
    assert says in message
    assert str(tmp_path / name) in message


def test_a_wrong_encoding_a_huge_file_and_a_missing_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes("cat\ncafé\n".encode("latin-1"))
    assert "line 2: not UTF-8" in refusal(path)
    path.write_bytes(b"cat\n" * (2**20 + 1))
    assert "at most 4194304" in refusal(path)
    assert refusal(str(tmp_path / "none.txt")).endswith("none.txt: no such file")
    (tmp_path / "names.txt").write_text("cat\n")
    monkeypatch.chdir(tmp_path)
    assert refusal("name.txt") == f"vocabulary name.txt: no such file in {tmp_path}; did you mean names.txt?"
    (tmp_path / "folder.json").mkdir()
    assert "folder.json" in refusal(tmp_path / "folder.json")
    assert "not a file name" in refusal(str(tmp_path / "v.csv"))


def test_annotations_give_their_categories_and_ignore_other_keys(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    categories = [
        {"id": 0, "name": "cat", "supercategory": "animal", "keypoints": ["nose"]},
        {"id": 9, "name": "spray_can", "synonyms": ["aerosol", "CAT"], "frequency": "r", "supercategory": 3},
    ]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    assert Vocabulary.load(path).categories == (
        Category(0, "cat", ("cat",), supercategory="animal"),
        Category(9, "spray_can", ("spray can",), frequency="r"),
    )
    with_synonyms = Vocabulary.load(path, synonyms=True)
    assert with_synonyms.by_id[9].phrases == ("spray can", "aerosol")
    assert 'entry 2: synonym "CAT" of "spray_can" dropped' in with_synonyms.warnings[0]
    path.write_text(json.dumps({"images": [], "categories": [*categories, {"id": 9, "name": "dog"}]}))
    assert 'the id is taken by category 9 "spray_can" (entry 2)' in refusal(path)


def test_a_file_url_is_read_through_storage(tmp_path: Path) -> None:
    path = tmp_path / "pets.txt"
    path.write_text("cat\ndog\n")
    assert Vocabulary.load(path.as_uri()) == Vocabulary.load(path)
    assert "none.txt" in refusal((tmp_path / "none.txt").as_uri())


def test_a_config_mapping_is_strict() -> None:
    assert "did you mean synonyms?" in refusal({"name": "coco", "synonym": True})
    assert "true or false" in refusal({"name": "coco", "synonyms": "yes"})
    assert "say `name`" in refusal({})
    assert "a file goes under `name`" in refusal({"categories": "pets.txt"})
    assert Vocabulary.load({"name": "pets", "categories": ["cat"]}).name == "pets"


def test_the_fingerprint_follows_the_categories_and_not_the_name() -> None:
    base = Vocabulary.load(["cat", "dog"])
    assert replace(base, name="other").fingerprint == base.fingerprint
    assert len(base.fingerprint) == 32
    others: list[list[Any]] = [
        ["dog", "cat"],
        ["cat", "dog / puppy"],
        ["cat"],
        ["cat", {"name": "dog", "negative": True}],
    ]
    assert len({base.fingerprint, *(Vocabulary.load(other).fingerprint for other in others)}) == 5
    # Pinned: a run made by an earlier version must still be recognized.
    assert base.fingerprint == "b4f63afb69e509bccab617aec83c9f96"


def test_a_damaged_vocabulary_json_is_refused() -> None:
    with pytest.raises(Refused, match=r"vocabulary\.json"):
        Vocabulary.from_json({"categories": [{"id": 1}]})


names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=12)


@given(
    st.lists(
        st.tuples(names.filter(lambda n: n.replace("_", " ").strip()), st.booleans(), st.sampled_from([None, "r"])),
        min_size=1,
        unique_by=lambda item: " ".join(item[0].replace("_", " ").split()).casefold(),
    )
)
def test_json_round_trip_and_pickle_give_the_same_vocabulary(items: list[tuple[str, bool, str | None]]) -> None:
    spec: list[Any] = [{"name": "the first of all categories", "id": 0}]
    spec += [{"id": i, "name": n, "negative": b, "frequency": f} for i, (n, b, f) in enumerate(items, 5)]
    vocabulary = Vocabulary.load(spec)
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again == Vocabulary.load(vocabulary.to_json()) == pickle.loads(pickle.dumps(vocabulary))
    assert again.categories == vocabulary.categories
    assert again.fingerprint == vocabulary.fingerprint


def test_the_listing_shows_names_phrases_and_marks() -> None:
    assert list_built_in() == ["coco: 80 categories", "lvis_v1: 1203 categories", "objects365_v1: 365 categories"]
    vocabulary = Vocabulary.load(["cat", {"name": "blue_sky", "negative": True, "frequency": "r"}])
    assert show_categories(vocabulary) == ["1\tcat", "2\tblue_sky\tblue sky\t(negative, r)"]
    assert describe(Vocabulary.load("lvis_v1"), None)[1] == "frequency: c 461, f 405, r 337"


def test_reading_a_vocabulary_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from labeler import prompts, vocabulary; vocabulary.Vocabulary.load('coco');"
        "sys.exit(bool({'torch', 'ray', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("names", ["[person, traffic light]", "{1: traffic light, 0: person}"])
def test_a_yolo_data_yaml_is_a_vocabulary(tmp_path: Path, names: str) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(f"train: images/train\nval: images/val\nnc: 2\nnames: {names}\n")
    assert [(c.id, c.name) for c in Vocabulary.load(path).categories] == [(0, "person"), (1, "traffic light")]
    path.write_text(f"names: {names}\ncategory_ids: [3, 8]\n")
    assert [c.id for c in Vocabulary.load(path).categories] == [3, 8], "as exports of labeler write them"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nc: 3\nnames: [a, b]", "nc: says 3, and there are 2 names"),
        ("names: {0: a, 2: b}", "class indices 0 to 1"),
        ("names: {a: 0}", "class indices 0 to 0"),
        ("names: person", "must be a list of class names"),
        ("names:\n  - a\n  - 7", "line 3"),
        ("names:\n  1: [x]\n  0: a", "line 2"),
        ("names: []", "name at least one"),
    ],
)
def test_a_bad_data_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.yaml").write_text(text + "\n")
    assert message in refusal(tmp_path / "data.yaml")
