"""OWL-ViT's and OWLv2's prompts: templates, spelling, what the text encoder reads, and what it cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer

from labeler.cli import main
from labeler.config import ModelConfig, PromptsConfig, make_config
from labeler.errors import Refused
from labeler.labeling.resolve import resolve_job
from labeler.prompts import plan_from_json
from labeler.prompts.owl.family import OWL_V2, OWL_VIT
from labeler.prompts.owl.planner import OwlPlanner
from labeler.prompts.owl.text import TEMPLATES, canonical
from labeler.vocabulary import Vocabulary
from tests.owl_model import NAMES, owl_checkpoint

ALONE = PromptsConfig(templates=("{}",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return owl_checkpoint(tmp_path_factory.mktemp("owl"), "owlv2")


@pytest.fixture
def planner(folder: Path) -> OwlPlanner:
    return OWL_V2.planner(folder, ModelConfig())


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("Traffic  Light!", "traffic light"),
        ("bow (weapon)", "bow weapon"),
        ("fleur--de-lis", "fleur-de-lis"),
        ("a photo of a cat.", "a photo of a cat"),
        ("Crème brûlée", "crème brûlée"),
        ("\u0441\u043e\u0431\u0430\u043a\u0430", "\u0441\u043e\u0431\u0430\u043a\u0430"),
    ],
)
def test_texts_are_spelled_as_in_training(text: str, spelled: str) -> None:
    assert canonical(text) == spelled


def test_a_plan_has_each_phrase_in_each_template_as_clip_tokenizes_it(folder: Path, planner: OwlPlanner) -> None:
    plan = planner.plan(Vocabulary.load(["cat", "Traffic light / semaphore"]), PromptsConfig())
    reference = CLIPTokenizer.from_pretrained(folder)
    assert [phrase.category_id for phrase in plan.phrases] == [1, 2, 2]
    assert len(TEMPLATES) == 7
    for phrase, name in zip(plan.phrases, ["cat", "traffic light", "semaphore"], strict=True):
        texts = [template.replace("{}", name).replace(".", "") for template in TEMPLATES]
        assert [list(ids) for ids in phrase.prompts] == reference(texts)["input_ids"]
    assert plan_from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert plan.lines() == ["3 phrases in 7 templates, all in one pass of the detector per image"]
    assert plan.fingerprint != planner.plan(Vocabulary.load(["cat", "Traffic light / semaphore"]), ALONE).fingerprint


def test_negatives_come_last(planner: OwlPlanner) -> None:
    plan = planner.plan(Vocabulary.load({"categories": ["cat", "bus"], "negative": ["dog"]}), ALONE)
    assert plan.phrase_categories == ((1, 2, 3),)
    assert plan.negative_ids == {3}


def test_a_prompt_that_the_model_would_cut_is_a_problem_of_check(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("cat\n" + "dog " * 10 + "\n" + "dog " * 15 + "\n")
    assert main(["vocabulary", "check", str(names), "--model", str(folder)]) == 2
    out = capsys.readouterr().err
    assert 'line 2: category 2 "dog dog ' in out
    assert 'is too long: 18 tokens in the template "a {} in a video game.", the model' in out
    assert (
        "the model reads 16; use fewer words, or set prompts.templates to shorter ones (['{}'] is the name alone)"
        in out
    )
    assert "the model reads 16; use fewer words\n" in out  # no template would help the second


def test_a_configuration_is_checked_with_its_own_model_and_templates(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("cat\n" + "dog " * 10 + "\n")
    values = {"input": str(tmp_path / "none"), "output": str(tmp_path / "out"), "vocabulary": str(names)}
    config = tmp_path / "label.yaml"
    config.write_text(json.dumps(values | {"model": {"name": str(folder)}, "prompts": {"templates": ["{}"]}}))
    check = ["vocabulary", "check", str(config)]
    assert main(check) == 0
    out = capsys.readouterr().out
    assert "2 categories (0 negative), 2 phrases" in out
    assert "2 phrases in 1 template, all in one pass of the detector per image" in out
    for more, message in [
        (['prompts.templates=["a {} in a video game."]'], 'is too long: 18 tokens in the template "a {} in a video'),
        (['prompts.templates=["a photo"]'], "give one or more texts with {} once in each"),
        (["detect.cuda_graphs=true"], "which has no such option"),
        (
            ["--model", "x", "--max-tokens", "9"],
            f"--model, --max-tokens: {config} is a run's configuration",
        ),
    ]:
        assert main([*check, *more]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert main(["vocabulary", "check", str(names), "model.name=x"]) == 2
    assert "model.name=x: only the values of a run's configuration can be overridden" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_prompt_of_exactly_sixteen_tokens_is_read_whole(planner: OwlPlanner) -> None:
    assert not planner.check(Vocabulary.load(["dog " * 14]), ALONE).problems
    assert planner.check(Vocabulary.load(["dog " * 15]), ALONE).problems


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "C.A.T"], None),
        (["cat", "Cat!"], r'phrase "Cat!" reads the same as "cat" of .*; change one of them'),
        (["cat", "???"], r"has no letter and no digit"),
    ],
)
def test_phrases_that_cannot_be_told_apart_or_read_are_problems(
    planner: OwlPlanner, names: list[str], message: str | None
) -> None:
    problems = planner.check(Vocabulary.load(names), ALONE).problems
    if message is None:
        assert problems == []
        return
    with pytest.raises(Refused, match=message):
        planner.plan(Vocabulary.load(names), ALONE)


@pytest.mark.parametrize("templates", [(), ("a photo",), ("{} and {}",)])
def test_templates_have_one_place_for_the_name(planner: OwlPlanner, templates: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match=r"prompts.templates: give one or more texts with \{\} once in each"):
        planner.check(Vocabulary.load(NAMES), PromptsConfig(templates=templates))


def test_images_are_as_the_checkpoint_says() -> None:
    config = {"vision_config": {"image_size": 960}}
    rule = OWL_V2.image_rule({}, config, "owl")
    assert (rule.fit, rule.size, rule.pad) == ("square", (960, 960), 0)
    assert rule.mean[0] == 0.48145466
    rule = OWL_VIT.image_rule({"size": [768, 768], "resample": 3}, {"vision_config": {"image_size": 768}}, "owl")
    assert (rule.fit, rule.size, rule.resample) == ("stretch", (768, 768), 3)
    for settings, message in [
        ({"size": {"height": 960, "width": 640}}, "needed is a height and an equal width in pixels"),
        ({"size": 768}, "size 768 is not the model's 960 pixels"),
        ({"do_pad": False}, "do_pad is false"),
        ({"do_center_crop": True, "crop_size": 640}, "cropped after resizing"),
    ]:
        with pytest.raises(Refused, match=message):
            OWL_V2.image_rule(settings, config, "owl")


@pytest.mark.parametrize(("gone", "missing"), [(("vocab.json",), "vocab.json"), (("merges.txt",), "merges.txt")])
def test_a_missing_tokenizer_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: tuple[str, ...], missing: str
) -> None:
    folder = owl_checkpoint(tmp_path / "owl", "owlv2")
    for name in gone:
        (folder / name).unlink()
    names = tmp_path / "names.txt"
    names.write_text("cat\n")
    capsys.readouterr()
    assert main(["vocabulary", "check", str(names), "--model", str(folder)]) == 2
    error = capsys.readouterr().err
    assert missing in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("part", [{"text_config": [1]}, {"text_config": {"max_position_embeddings": "x"}}])
def test_a_damaged_config_is_refused_in_a_line(folder: Path, tmp_path: Path, part: dict[str, Any]) -> None:
    shutil.copytree(folder, tmp_path / "damaged")
    config = tmp_path / "damaged" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **part}))
    with pytest.raises(Refused, match=r"(text_config|max_position_embeddings) in its config.json is"):
        OWL_V2.planner(tmp_path / "damaged", ModelConfig())
    with pytest.raises(Refused, match=r"vision_config in its config.json is \[1\], not settings"):
        OWL_V2.image_rule({}, {"vision_config": [1]}, "damaged")


def test_torch_s_resize_is_refused_before_anything_starts(folder: Path, tmp_path: Path) -> None:
    """Theirs is a Gaussian of its own, and OWL-ViT's is bicubic."""
    values = {"input": str(tmp_path), "output": str(tmp_path / "run"), "vocabulary": NAMES}
    config = make_config({**values, "model": {"name": str(folder)}}, ["detect.resize=torch"])
    with pytest.raises(Refused, match=r"detect.resize=torch: checkpoint .* does not resize bilinearly"):
        resolve_job(config)
