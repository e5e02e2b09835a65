"""Phrases that are images: read beside their vocabulary, kept with the run, rejected by families without them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labeler.cli import main
from labeler.config import ModelConfig, PromptsConfig
from labeler.detectors.grounding_dino.wordpiece import write_wordpiece
from labeler.errors import Refused
from labeler.prompts import plan_from_json
from labeler.prompts.owl.family import OWL_V2
from labeler.vocabulary import Vocabulary
from tests.checkpoint_parts import write_checkpoint
from tests.inputs import image_bytes
from tests.owl_model import owl_checkpoint

WRITTEN = [
    {"name": "cat", "phrases": ["cat", {"image": "crops/cat.png"}]},
    {"name": "screw", "phrases": [{"image": "crops/screw.png"}]},
    {"name": "dog"},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "cat.png").write_bytes(image_bytes(1, width=40, height=30))
    (tmp_path / "crops" / "screw.png").write_bytes(image_bytes(2, width=30, height=40))
    (tmp_path / "names.json").write_text(json.dumps(WRITTEN))
    return tmp_path / "names.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return owl_checkpoint(tmp_path_factory.mktemp("owl"), "owlv2")


def test_a_path_is_relative_to_the_vocabulary_file_and_a_url_is_read_by_storage(file: Path) -> None:
    vocabulary = Vocabulary.load(str(file))
    cat, screw, dog = vocabulary.categories
    assert (cat.phrases, screw.phrases, dog.phrases) == (("cat",), (), ("dog",))
    assert [crop.data for crop in (*cat.crops, *screw.crops)] == [
        (file.parent / "crops" / name).read_bytes() for name in ("cat.png", "screw.png")
    ]
    url = f"local://{file.parent}/names.json"
    assert Vocabulary.load(url) == vocabulary
    named = [{"name": "cat", "phrases": [{"image": f"local://{file.parent}/crops/cat.png"}]}]
    assert Vocabulary.load(named).categories[0].crops == cat.crops


def test_a_run_keeps_the_bytes_and_needs_the_files_no_more(file: Path) -> None:
    vocabulary = Vocabulary.load(str(file))
    stored = json.loads(json.dumps(vocabulary.to_json()))
    for path in (file.parent / "crops").iterdir():
        path.unlink()
    assert Vocabulary.from_json(stored).categories == vocabulary.categories
    assert Vocabulary.from_json(stored).fingerprint == vocabulary.fingerprint


def test_the_fingerprint_is_of_the_bytes_and_not_of_the_name(file: Path, folder: Path) -> None:
    planner = OWL_V2.planner(folder, ModelConfig())
    crop = file.parent / "crops" / "screw.png"

    def fingerprints() -> tuple[str, str]:
        vocabulary = Vocabulary.load(str(file))
        return vocabulary.fingerprint, planner.plan(vocabulary, PromptsConfig()).fingerprint

    before = fingerprints()
    crop.rename(crop.with_name("bolt.png"))
    file.write_text(file.read_text().replace("screw.png", "bolt.png"))
    assert fingerprints() == before
    crop.with_name("bolt.png").write_bytes(image_bytes(3, width=30, height=40))
    assert all(now != then for now, then in zip(fingerprints(), before, strict=True))


def test_a_vocabulary_without_crops_has_the_fingerprint_it_had() -> None:
    assert Vocabulary.load(["cat", "dog / hound"]).fingerprint == "563e1cdbe84347fc5a8eee1be7547c5f"


def test_a_plan_carries_the_bytes_through_prompts_json(file: Path, folder: Path) -> None:
    plan = OWL_V2.planner(folder, ModelConfig()).plan(Vocabulary.load(str(file)), PromptsConfig())
    assert plan.phrase_categories == ((1, 3, 1, 2),)
    assert plan_from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert plan.lines() == ["2 phrases in 7 templates and 2 crops, all in one pass of the detector per image"]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("text.png", '"screw": image "text.png" is not an image that can be read: '),
        ("gone.png", '"screw": image "gone.png": No such file or directory'),
        ("", "a phrase is text, or {image: path or URL} for a crop"),
    ],
)
def test_what_is_no_image_is_one_line_before_any_run(
    file: Path, folder: Path, capsys: pytest.CaptureFixture[str], image: str, message: str
) -> None:
    (file.parent / "text.png").write_text("not an image")
    file.write_text(json.dumps([{"name": "screw", "phrases": [{"image": image}]}]))
    source = file.parent / "in"
    source.mkdir()
    (source / "a.png").write_bytes(image_bytes(0, width=40, height=30))
    values = {"input": str(source), "output": str(file.parent / "out"), "vocabulary": str(file)}
    config = file.parent / "c.yaml"
    config.write_text(json.dumps(values | {"model": {"name": str(folder)}}))
    for command in (["vocabulary", "check", str(file), "--model", str(folder)], ["label", str(config)]):
        capsys.readouterr()
        assert main(command) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (file.parent / "out").exists()


def test_a_family_that_looks_for_names_refuses_crops_by_name(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_checkpoint(tmp_path / "model", weights=False)
    write_wordpiece(model, ["cat", "dog"])
    assert main(["vocabulary", "check", str(file), "--model", str(model)]) == 2
    error = capsys.readouterr().err
    assert 'image "crops/cat.png": the family grounding-dino looks for names alone; OWL-ViT and OWLv2' in error
    assert error.count("looks for names alone") == 2


def test_a_crop_means_one_category(file: Path) -> None:
    crop = {"image": "crops/cat.png"}
    file.write_text(json.dumps([{"name": "cat", "phrases": [crop]}, {"name": "dog", "phrases": [crop]}]))
    with pytest.raises(Refused, match=r'category 2 "dog": image "crops/cat.png" is taken by category 1 "cat"'):
        Vocabulary.load(str(file))
