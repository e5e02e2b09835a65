"""A closed set's labels against a vocabulary, and what of its files is refused; no model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labeler.checkpoints import resolve
from labeler.cli import main
from labeler.config import ModelConfig, PromptsConfig
from labeler.errors import Refused
from labeler.prompts import ImageRule, plan_from_json
from labeler.prompts.closed_set.family import ClosedSetFamily, ColumnPlan
from labeler.prompts.vocabulary_for import load_vocabulary
from labeler.vocabulary import Vocabulary

LABELS = {0: "N/A", 1: "Person", 2: "tvmonitor", 3: "traffic_light", 4: "LABEL_4", 5: "dog", 6: "N/A", 7: "DOG"}
RESNET = {"backbone_config": {"model_type": "resnet"}, "use_timm_backbone": False}
FAMILY = ClosedSetFamily()


def folder_of(tmp_path: Path, **config: Any) -> Path:
    values = {"model_type": "rt_detr", "architectures": ["RTDetrForObjectDetection"], "id2label": LABELS, **config}
    (tmp_path / "config.json").write_text(json.dumps(values))
    return tmp_path


def plan(tmp_path: Path, vocabulary: Any, **labels: str) -> ColumnPlan:
    planner = FAMILY.planner(folder_of(tmp_path), ModelConfig(labels=labels))
    return planner.plan(load_vocabulary(vocabulary, planner, PromptsConfig()), PromptsConfig())


def columns(found: ColumnPlan) -> list[tuple[int, int]]:
    return [(column.category_id, column.column) for column in found.columns]


def test_labels_go_by_equal_name_or_phrase_whatever_their_case(tmp_path: Path) -> None:
    vocabulary = [{"id": 9, "name": "human", "phrases": ["man", "person"]}, {"id": 4, "name": "Traffic Light"}]
    assert columns(plan(tmp_path, vocabulary)) == [(9, 1), (4, 3)]
    assert columns(plan(tmp_path, ["dog"])) == [(1, 5), (1, 7)]  # two columns of one name are one category's


def test_the_map_comes_before_equal_names_and_several_labels_may_go_to_one_category(tmp_path: Path) -> None:
    animals = plan(tmp_path, ["person", "animal"], dog="animal", tvmonitor="animal", LABEL_4="animal")
    assert columns(animals) == [(1, 1), (2, 2), (2, 4), (2, 5)]  # DOG is another label
    exact = plan(tmp_path, ["person", "dog"], DOG="person")  # its own spelling alone
    assert columns(exact) == [(1, 1), (1, 7), (2, 5)]


def test_a_label_that_fits_two_categories_is_a_problem_until_it_is_mapped(tmp_path: Path) -> None:
    """A name and another category's phrase."""
    vocabulary = [{"id": 1, "name": "dog"}, {"id": 2, "name": "pet", "phrases": ["animal"]}]
    assert columns(plan(tmp_path, vocabulary, person="pet")) == [(1, 5), (1, 7), (2, 1)]
    twice = [{"id": 1, "name": "dog", "phrases": ["hound"]}, {"id": 2, "name": "pet", "phrases": ["dog"]}]
    with pytest.raises(Refused) as refused:
        plan(tmp_path, twice)
    assert refused.value.problems[0] == 'model.labels: the label "dog" fits "dog" and "pet"; map it to one of them'
    assert columns(plan(tmp_path, twice, dog="pet", DOG="dog")) == [(1, 7), (2, 5)]


def test_pascal_voc_s_spellings_stand_for_coco_s_unless_they_are_categories_themselves(tmp_path: Path) -> None:
    assert columns(plan(tmp_path, ["tv"])) == [(1, 2)]
    with pytest.raises(Refused, match="tv"):
        plan(tmp_path, ["tv", "tvmonitor"])  # the label is tvmonitor's, and tv has none


def test_fillers_match_nothing_by_themselves(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        plan(tmp_path, ["n/a", "label_4"])
    assert len(refused.value.problems) == 2


def test_negatives_come_last(tmp_path: Path) -> None:
    spec = {"categories": ["dog"], "negative": ["person"]}
    found = plan(tmp_path, spec)
    assert columns(found)[-1][1] == 1
    assert found.negative_ids == {columns(found)[-1][0]}


def test_all_problems_are_said_at_once_with_what_is_near(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        plan(tmp_path, ["person", "tv monitor", "zebra"], persn="person", dog="animal", Person="persn")
    said = "\n".join(refused.value.problems)
    assert 'category 2 "tv monitor": no label of the checkpoint stands for it; did you mean tvmonitor?' in said
    assert 'category 3 "zebra": no label of the checkpoint stands for it; map one to it in model.labels' in said
    assert 'category 1 "person": no label' in said  # its label was mapped away
    assert 'model.labels: the checkpoint has no label "persn"; did you mean Person?' in said
    assert 'model.labels: "dog" is mapped to "animal", which is not a category of the vocabulary' in said
    assert '"Person" is mapped to "persn", which is not a category of the vocabulary; did you mean person?' in said
    assert len(refused.value.problems) == 6


def test_the_map_is_in_the_fingerprint(tmp_path: Path) -> None:
    one = plan(tmp_path, ["person", "thing"], tvmonitor="thing")
    assert one.fingerprint != plan(tmp_path, ["person", "thing"], dog="thing").fingerprint
    assert plan_from_json(json.loads(json.dumps(one.to_json()))) == one
    with pytest.raises(Refused, match="damaged: ValueError: columns that the checkpoint does not have"):
        plan_from_json(one.to_json() | {"of": 2})


def test_a_model_has_a_vocabulary_of_its_own(tmp_path: Path) -> None:
    planner = FAMILY.planner(folder_of(tmp_path), ModelConfig(labels={"tvmonitor": "tv"}))
    own = load_vocabulary("from_model", planner, PromptsConfig())
    assert [(c.id, c.name) for c in own.categories] == [(1, "Person"), (2, "tv"), (3, "traffic_light"), (5, "dog")]
    assert columns(planner.plan(own, PromptsConfig())) == [(1, 1), (2, 2), (3, 3), (5, 5), (5, 7)]
    nameless = FAMILY.planner(folder_of(tmp_path, id2label=None, num_labels=3), ModelConfig())
    with pytest.raises(Refused, match=r"no label of checkpoint .* has a name; give them in model.labels"):
        load_vocabulary("from_model", nameless, PromptsConfig())


def test_a_configuration_is_checked_with_its_label_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path)
    values = {"input": "none", "output": "out", "vocabulary": "from_model"}
    config = tmp_path / "label.yaml"
    config.write_text(json.dumps(values | {"model": {"name": str(folder), "labels": {"tvmonitor": "tv"}}}))
    assert main(["vocabulary", "check", str(config)]) == 0
    assert "from_model: 4 categories (0 negative)" in capsys.readouterr().out
    assert main(["vocabulary", "check", str(config), "model.labels={persn: tv}"]) == 2
    assert 'model.labels: the checkpoint has no label "persn"; did you mean Person?' in capsys.readouterr().err


def test_only_a_closed_set_has_a_vocabulary_of_its_own(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vocabulary", "check", "from_model", "--model", str(checkpoint)]) == 2
    assert "the checkpoint has no labels of its own, it looks for words; name some" in capsys.readouterr().err
    with pytest.raises(Refused, match="vocabulary from_model are the labels of a checkpoint: name that"):
        Vocabulary.load("from_model")


@pytest.mark.parametrize("labels", [{"0": "cat", "2": "dog"}, {}, ["cat"], {"a": "cat"}])
def test_damaged_labels_are_refused(tmp_path: Path, labels: Any) -> None:
    with pytest.raises(Refused, match=r"id2label in its config\.json does not name the labels 0, 1, 2"):
        resolve(folder_of(tmp_path, id2label=labels), weights=False)


TIMM = {"model_type": "detr", "architectures": ["DetrForObjectDetection"]}


@pytest.mark.parametrize(
    "config",
    [
        TIMM,  # the default of transformers
        TIMM | {"use_timm_backbone": True, "backbone": "resnet50"},
        TIMM | {"backbone_config": {"model_type": "timm_backbone"}},
        {"use_timm_backbone": True, "backbone": "resnet50"},
    ],
)
def test_a_backbone_of_timm_is_refused_before_anything_is_loaded(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(
        Refused, match=r"takes its image backbone from timm, .* model.revision=no_timm\), or an RT-DETR"
    ):
        resolve(folder_of(tmp_path, **config), weights=False)
    resolve(folder_of(tmp_path, **config | RESNET), weights=False)


def test_a_checkpoint_of_no_family_names_the_families(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, model_type="bert", architectures=["BertModel"])
    with pytest.raises(Refused, match=r"a BertModel, of no known .*grounding-dino \(.*; closed-set \(detr, .*lw_detr"):
        resolve(folder, weights=False)


def rule(tmp_path: Path, model_type: str, processor: dict[str, Any], **config: Any) -> ImageRule:
    values = {"model_type": model_type, "architectures": None, **RESNET, **config}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    return resolve(folder_of(tmp_path, **values), weights=False).rule


def test_an_image_rule_is_of_the_files_of_the_checkpoint(tmp_path: Path) -> None:
    edges, square = {"shortest_edge": 480, "longest_edge": 640}, {"height": 512, "width": 512}
    assert rule(tmp_path, "detr", {}) == ImageRule("edges", (800, 1333))
    assert rule(tmp_path, "detr", {"size": 300, "max_size": 500}) == ImageRule("edges", (300, 500))
    assert rule(tmp_path, "yolos", {"size": edges}) == ImageRule("edges", (480, 640), 16)
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    assert rule(tmp_path, "rt_detr", {}) == ImageRule("stretch", (640, 640), **plain)
    assert rule(tmp_path, "deimv2", {"size": square, "do_normalize": True}) == ImageRule("stretch", (512, 512))
    assert rule(tmp_path, "d_fine", {"size": edges}, feat_strides=[8, 16]) == ImageRule(
        "edges", (480, 640), 16, **plain
    )
    windows = {"backbone_config": {"patch_size": 16, "num_windows": 4}}
    assert rule(tmp_path, "lw_detr", {"size": edges}, **windows) == ImageRule("edges", (480, 640), 32)
    assert rule(tmp_path, "rf_detr", {"size": square}, **windows) == ImageRule("stretch", (512, 512))


@pytest.mark.parametrize(
    ("model_type", "processor", "message"),
    [
        ("rt_detr", {"size": {"height": 650, "width": 640}}, "650 x 640 pixels, .* multiples of 32"),
        ("rf_detr", {"size": {"height": 512, "width": 512}}, "multiples of 56"),
        ("detr", {"size": {"max_height": 9, "max_width": 9}}, "needed are a shortest_edge and a longest_edge"),
        ("detr", {"do_resize": False}, "images that keep their size or are padded"),
        ("lw_detr", {"pad_size": {"height": 640, "width": 640}}, "images that keep their size or are padded"),
        ("detr", {"rescale_factor": "x"}, "the image settings in its files are not usable"),
    ],
)
def test_images_that_a_model_cannot_take_are_refused(
    tmp_path: Path, model_type: str, processor: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refused, match=message):
        rule(tmp_path, model_type, processor)
