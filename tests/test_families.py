"""A family that is not Grounding DINO goes the whole way: from a checkpoint to exported boxes."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from rich.console import Console
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from labeler import images
from labeler.checkpoints import resolve
from labeler.cli import main
from labeler.config import Config, ModelConfig, PromptsConfig, make_config
from labeler.detectors import GroundingDino
from labeler.errors import Refused
from labeler.labeling.fingerprint import family_fields
from labeler.labeling.recipe import detector_recipe
from labeler.labeling.resolve import resolve_job
from labeler.pipeline.label import label
from labeler.prompts import plan_from_json, register
from labeler.prompts.families import DEFAULT
from labeler.runs import open_run, read_snapshot
from labeler.training.config import StudentConfig
from labeler.training.models import start_checkpoint
from labeler.vocabulary import Vocabulary
from tests.closed_sets import make_checkpoint, small_resnet
from tests.inputs import image_bytes
from tests.toy_family import Toy

LABELS = ["cat", "dog", "bus", "traffic light"]
SIZE = (64, 96)
SIDES = ("x_min", "y_min", "x_max", "y_max")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_folder(tmp_path_factory.mktemp("toy"))


def toy_folder(target: Path) -> Path:
    """A model with random weights, whose scores are distinct enough to be compared."""
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        backbone_config=small_resnet("stage1", "stage2", "stage3", "stage4"),
        d_model=128,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=20,
        id2label=dict(enumerate(LABELS)),
    )
    torch.manual_seed(3)
    model = transformers.DetrForSegmentation(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(target)
    settings = {"size": {"height": SIZE[0], "width": SIZE[1]}}
    (target / "preprocessor_config.json").write_text(json.dumps(settings))
    return target


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("in")
    for number, (width, height) in enumerate([(120, 90), (120, 90), (50, 200), (96, 64)]):
        (target / f"{number}.png").write_bytes(image_bytes(number, width=width, height=height))
    return target


def config_of(folder: Path, source: Path, output: Path, *overrides: str) -> Config:
    values = {"input": str(source), "output": str(output), "vocabulary": LABELS, "model": {"name": str(folder)}}
    return make_config(values, ["detect.nms_iou=1", "ray.cpus_per_worker=1", *overrides])


def of_transformers(folder: Path, data: bytes) -> list[tuple[float, int, list[float]]]:
    """(score, category id, xyxy) of one image, by transformers' own processor, model and post-processing."""
    pixels = images.decode(data).pixels
    processor = DetrImageProcessorPil(size={"height": SIZE[0], "width": SIZE[1]}, do_pad=False)
    model = transformers.DetrForSegmentation.from_pretrained(folder).eval()
    with torch.no_grad():
        out = model(pixel_values=torch.from_numpy(np.array(processor(pixels)["pixel_values"])))
    (found,) = processor.post_process_object_detection(out, threshold=0.05, target_sizes=[pixels.shape[:2]])
    boxes = np.clip(found["boxes"].numpy(), 0, [pixels.shape[1], pixels.shape[0]] * 2)
    rows = zip(found["scores"].tolist(), (found["labels"] + 1).tolist(), boxes.tolist(), strict=True)
    return sorted(row for row in rows if row[2][2] > row[2][0] and row[2][3] > row[2][1])[::-1]


@pytest.mark.usefixtures("local_ray")
def test_a_closed_set_is_labeled_on_ray_as_transformers_computes_it_exported_and_evaluated(
    folder: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    outcome = label(config_of(folder, source, output), console=Console(file=io.StringIO()))
    assert outcome.report.statuses == {"labeled": 4}
    run = open_run(str(output))
    assert run is not None
    rows = [row for table in read_snapshot(run).tables() for row in table.to_pylist()]
    boxes = 0
    for row in rows:
        expected = of_transformers(folder, (source / row["image_key"]).read_bytes())
        found = row["detections"]
        boxes += len(found)
        assert [d["category_id"] for d in found] == [category for _, category, _ in expected]
        np.testing.assert_allclose([d["score"] for d in found], [score for score, _, _ in expected], atol=1e-5)
        np.testing.assert_allclose(
            [[d[side] for side in SIDES] for d in found], [box for _, _, box in expected], atol=0.01
        )
    assert boxes > 20
    fields = run.manifest.fingerprint_fields
    assert (fields["family"], fields["family_version"], fields["image_size"]) == ("toy", 1, list(SIZE))
    assert "tokenizer" not in fields
    assert run.prompts() == resolve_job(config_of(folder, source, output)).plan
    target = tmp_path / "coco.json"
    assert main(["export", str(output), "--to", "coco", "--threshold", "0.05", "--output", str(target)]) == 0
    assert 0 < len(json.loads(target.read_text())["annotations"]) <= boxes
    assert main(["evaluate", str(output), "--annotations", str(target)]) == 0
    assert "NMS 1.0 within a category, score mean, 1 pass\n" in capsys.readouterr().out


def test_what_grounding_dino_writes_names_no_family(checkpoint: Path) -> None:
    family = resolve(checkpoint, weights=False).family
    assert family_fields(family) == {}
    assert family_fields(Toy()) == {"family": "toy", "family_version": 1}
    plan = family.planner(checkpoint, ModelConfig()).plan
    assert "family" not in plan(Vocabulary.load(["cat"]), PromptsConfig()).to_json()


def test_a_family_that_is_not_known_here_is_refused(folder: Path) -> None:
    with pytest.raises(Refused, match=r"prompts.json is of the detector family 'owl'; known here are grounding-dino, "):
        plan_from_json({"family": "owl"})
    with pytest.raises(Refused, match=r"is of the family toy; GroundingDino loads its own"):
        GroundingDino(folder, ["cat"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("detect.score=max", r"detect.score: checkpoint .* is of the family toy, which has no such option; leave it"),
        ("prompts.max_categories=3", "prompts.max_categories: "),
        ("prompts.templates=[a {}]", "prompts.templates: "),
        ("detect.image_size={shortest_edge: 64, longest_edge: 96}", "the model takes images of 64 x 96 pixels"),
        ("vocabulary=[cat, zebra]", "the model has no 'zebra'"),
    ],
)
def test_what_a_family_does_not_have_is_refused_by_name(
    folder: Path, source: Path, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(Refused) as refused:
        resolve_job(config_of(folder, source, tmp_path / "run", override))
    assert re.search(message, "\n".join([str(refused.value), *refused.value.problems]))


def test_half_precision_is_compared_with_float32_at_the_start(folder: Path, source: Path, tmp_path: Path) -> None:
    said = {}
    for dtype in ("float32", "bfloat16"):
        job = resolve_job(config_of(folder, source, tmp_path / "run", f"model.dtype={dtype}"))
        said[dtype] = detector_recipe(job, threads=1)().description
    assert (said["float32"]["engine"], said["float32"]["engine_check"]) == ("transformers", "")
    assert "of 20 detections equal" in said["bfloat16"]["engine_check"]


def test_a_model_that_does_not_run_at_its_size_is_refused_at_the_start(
    folder: Path, source: Path, tmp_path: Path
) -> None:
    broken = make_checkpoint(tmp_path / "broken", "rf_detr", labels=LABELS)
    (broken / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 16, "width": 32}}))
    job = resolve_job(config_of(broken, source, tmp_path / "run"))
    expected = r"not run on images of 16 x 32 pixels .*: they have 8 positions, and the model asks for 20"
    with pytest.raises(Refused, match=expected):
        detector_recipe(job, threads=1)()


def test_a_dry_run_and_a_profile_know_its_parts(
    folder: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    values: dict[str, Any] = {"input": str(source), "output": str(tmp_path / "run"), "vocabulary": LABELS}
    config.write_text(json.dumps(values | {"model": {"name": str(folder)}}))
    assert main(["label", str(config), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "4 categories in 4 phrases, all in one pass of the detector per image" in out
    assert "resize   64 x 96 pixels" in out
    assert main(["label", str(config), "--profile", "--time-images", "2"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{part} " in out for part in ("resize", "image backbone", "heads", "scoring", "merge"))


def test_only_grounding_dino_is_trained(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"is of the family toy; only grounding-dino can be trained"):
        start_checkpoint(StudentConfig(name=str(folder)), Vocabulary.load(["cat"]), tmp_path, seed=0)


class SameTypes(Toy):
    name, architectures = "mine", DEFAULT.architectures


def test_a_name_or_a_model_type_is_of_one_family() -> None:
    register(Toy())  # a second time: nothing happens
    with pytest.raises(ValueError, match="has the name or a model type of family grounding-dino"):
        register(SameTypes())
