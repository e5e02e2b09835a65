"""Benchmarks that train, join or tile small detectors: each runs at a small size and says what it measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks import (
    closed_set_shapes,
    decoding,
    fuse,
    owl_crops,
    owl_shapes,
    small_shapes,
    tiling,
)
from labeler import images
from labeler.labels.detections import Detections
from labeler.prompts.owl.family import OWL_V2
from labeler.training.validation import ValidationImage, ValidationSet
from labeler.vocabulary import Vocabulary
from tests.label_runs import noisy_run

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


@pytest.mark.slow  # half a minute per detector
@pytest.mark.parametrize("trained", [closed_set_shapes, owl_shapes])
def test_a_small_detector_is_trained_labels_and_is_judged(
    trained: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained, "SCENES", 40)
    monkeypatch.setattr(small_shapes, "HELD_OUT", 3)
    monkeypatch.setattr(owl_shapes, "VALIDATION_SCENES", 2)
    folder, output = tmp_path / "out", tmp_path / "result.json"
    command = ["x", "--minutes", "0.1", "--out", str(folder), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", command)
    trained.main()
    result = json.loads(output.read_text())
    assert result["steps"] >= 1
    assert result["evaluation"]["protocol"]["annotations"]["images"] == 3
    assert result["evaluation"]["protocol"]["images"]["run_complete"]
    assert (folder / "checkpoint" / "model.safetensors").is_file()


def test_floors_and_crops_are_measured_on_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights: a floor leaves boxes out, and what is asked by a crop is another query than its name."""
    checkpoint, output = tmp_path / "checkpoint", tmp_path / "crops.json"
    checkpoint.mkdir()
    small_shapes.save_image_settings(checkpoint)
    owl_shapes.make_model(owl_shapes.write_clip_files(checkpoint, ["circle"])).save_pretrained(checkpoint)
    monkeypatch.setattr(owl_crops, "SCENES", 2)
    monkeypatch.setattr(owl_crops, "FLOORS", (0.0, 0.99))
    asked: list[Vocabulary] = []
    find = owl_crops.found_in
    monkeypatch.setattr(owl_crops, "found_in", lambda *given, **more: asked.append(given[2]) or find(*given, **more))
    assert owl_crops.main([str(checkpoint), "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    assert result["floors"]["0.0"]["boxes_an_image"] > 0 == result["floors"]["0.99"]["boxes_an_image"]
    assert list(result["never seen"]) == ["words", "crops, margin 0", "crops, margin 1"]
    tight, wide = ([images.decode(c.crops[0].data).pixels for c in v.categories] for v in asked[-2:])
    for narrow, broad in zip(tight, wide, strict=True):
        assert narrow.shape[0] < broad.shape[0] < owl_shapes.SIZE
    assert [category.name for category in asked[-1].categories] == list(owl_crops.NEVER_SEEN)


def test_the_documents_say_what_was_measured_of_the_small_detectors() -> None:
    text = " ".join((RESULTS.parent.parent / "docs" / "guides" / "models.md").read_text().split())
    for name in ("closed-set-shapes", "owl-shapes"):
        found = json.loads((RESULTS / f"{name}.json").read_text())["evaluation"]["scores"][0]
        command = f"`python -m benchmarks.{name.replace('-', '_')}`"
        assert f"COCO AP {found['AP']:.3f} and AP50 {found['AP50']:.3f} ({command}" in text
    more = json.loads((RESULTS / "owl-crops.json").read_text())
    whole, default, high = (more["floors"][floor] for floor in ("0.0", str(OWL_V2.score_floor), "0.05"))
    assert (
        f"{whole['ap_all']:.3f} at floor 0 with {whole['boxes_an_image']:.0f} boxes per image, "
        f"{default['ap_all']:.3f} at 0.02 with {default['boxes_an_image']:.0f}, "
        f"{high['ap_all']:.3f} at 0.05 with {high['boxes_an_image']:.0f}." in text
    )
    named, never = more["named"], more["never seen"]
    tight = "crops, margin 0"
    assert f"instead of its name: AP {named[tight]['ap_all']:.3f}" in text
    assert f"AP {never[tight]['ap_all']:.3f} by tight crops, {never['words']['ap_all']:.3f} by words" in text


def test_decoding_measures_both_decoders_on_pictures_that_they_decode_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decoding, "SIZES", {"0.5 MP": (200, 150)})
    output = tmp_path / "decoding.json"
    assert decoding.main(["--sizes", "0.5 MP", "--rounds", "2", "--output", str(output)]) == 0
    written = json.loads(output.read_text())
    took = written["sizes"]["0.5 MP"]["cpu_ms"]
    assert len(took) == 10
    assert all(len(values) == 2 and min(values) > 0 for values in took.values())
    assert written["decoders"].startswith("simplejpeg ")
    assert "all, torch, draft, simplejpeg" in capsys.readouterr().out


@pytest.mark.slow
def test_fuse_compares_every_way_with_each_run_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _, truth = noisy_run(tmp_path / name, {3: 1.0, 8: 0.5}, images=40)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    found = fuse.compare([tmp_path / "a", tmp_path / "b"], tmp_path / "gt.json", tmp_path / "gt.json")
    assert len(found) == 2 + len(fuse.WAYS)
    assert found["fused, nms, raw scores"] == found["a"] == found["b"], "a run fused with its equal"
    stored = json.loads((RESULTS / "fuse.json").read_text())["found"]
    assert found.keys() - {"a", "b"} == stored.keys() - {"shapes", "owl"}


def test_objects_are_found_by_size_once_each_and_by_their_own_name() -> None:
    image = ValidationImage(
        np.zeros((600, 600, 3), np.uint8),
        np.float32([[0, 0, 60, 60], [0, 100, 60, 160], [100, 0, 400, 300]]),
        np.int64([1, 1, 2]),
    )
    data = ValidationSet((image,), Vocabulary.load(["a", "b"]), {})
    boxes = [[0, 0, 60, 58], [0, 0, 60, 59], [0, 100, 60, 160], [100, 0, 400, 300], [100, 0, 400, 300]]
    found = Detections.of(boxes, [0.9, 0.8, 0.2, 0.7, 0.6], [1, 1, 1, 1, 2])
    result = tiling.by_size(data, [found])
    assert result["objects"] == {"0 to 100": 2, "100 to 200": 0, "200 to 400": 1, "400 on": 0}
    assert result["recall"] == {"0 to 100": 0.5, "100 to 200": None, "200 to 400": 1.0, "400 on": None}
    assert result["precision"] == 0.5


@pytest.mark.slow  # three scenes, five times
def test_tiles_find_what_is_too_small_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tiling", "--scenes", "1", "--output", str(tmp_path / "result.json")])
    tiling.main()
    plain, tiles, *_, kept = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert (plain["passes"], tiles["passes"]) == (1, 10)
    assert plain["recall"]["0 to 100"] < 0.1
    assert tiles["recall"]["0 to 100"] > 0.7
    assert tiles["ap"] > plain["ap"] + 0.3
    assert kept["precision"] < 0.7 < tiles["precision"]
