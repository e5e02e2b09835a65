"""A configuration becomes a job: what its fingerprint says, and what its detector is told."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from labeler.checkpoints import contents
from labeler.config import DetectConfig, config_of_run, make_config
from labeler.detectors import GroundingDino
from labeler.errors import Refused
from labeler.labeling.fingerprint import public_config
from labeler.labeling.recipe import detector_recipe, segmenter_recipe
from labeler.labeling.resolve import Job, resolve_job
from tests.log_lines import logged
from tests.segmenter_parts import tiny_sam


def job(checkpoint: Path, **detect: Any) -> Job:
    values = {"input": "in", "output": "out", "vocabulary": ["cat", "dog"], "model": {"name": str(checkpoint)}}
    return resolve_job(make_config({**values, "detect": detect}))


@pytest.mark.parametrize(
    ("detect", "kernel"),
    [
        ({}, "pillow-bilinear"),
        ({"resize": "torch"}, "torch-uint8-bilinear"),
        ({"jpeg_draft": True}, "jpeg-draft, pillow-bilinear"),
        ({"jpeg_draft": True, "resize": "torch"}, "jpeg-draft, torch-uint8-bilinear"),
    ],
)
def test_how_images_are_made_small_is_in_the_fingerprint(checkpoint: Path, detect: dict[str, Any], kernel: str) -> None:
    plain, other = job(checkpoint), job(checkpoint, **detect)
    assert other.fields["resize_kernel"] == kernel
    assert {name for name in plain.fields if plain.fields[name] != other.fields[name]} <= {"resize_kernel"}


def test_the_detector_is_told_how_to_make_images_small(checkpoint: Path) -> None:
    plain = detector_recipe(job(checkpoint))()
    other = detector_recipe(job(checkpoint, resize="torch", jpeg_draft=True), threads=1)()
    assert (plain.preprocessing.resize, plain.least_shape) == ("pillow", None)
    assert other.preprocessing.resize == "torch"
    assert other.least_shape(3000, 4000) == other.preprocessing.rule.target(3000, 4000)


def test_an_option_is_declared_once(checkpoint: Path) -> None:
    """The config has its default and its mark; the fingerprint and `GroundingDino` read them there."""
    fields = job(checkpoint).fields
    assert {name.removeprefix("detect.") for name in fields if name.startswith("detect.")} == {
        *("max_pixels", "score", "assignment", "score_floor", "max_detections", "nms_iou")
    }
    defaults = DetectConfig()
    arguments = inspect.signature(GroundingDino).parameters
    shared = [name for name in DetectConfig.model_fields if name in arguments]
    assert len(shared) == 10
    assert all(arguments[name].default == getattr(defaults, name) for name in shared)


def test_a_worker_reads_the_weights_for_their_digest_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"input": "in", "output": "out", "vocabulary": ["cat"], "model": {"name": str(checkpoint)}}
    planned = resolve_job(make_config({**values, "masks": {"model": str(tiny_sam("sam"))}}))
    digested: list[Path] = []
    digest = contents._digest
    monkeypatch.setattr(contents, "_digest", lambda folder, files: digested.append(folder) or digest(folder, files))
    detector, to_masks = detector_recipe(planned)(), segmenter_recipe(planned)
    assert digested == [checkpoint]
    assert detector.checkpoint == planned.checkpoint
    assert to_masks is not None
    assert to_masks().checkpoint == planned.segmenter
    assert digested == [checkpoint, tiny_sam("sam")]


def test_what_a_vocabulary_probably_does_not_mean_is_said_before_labeling(checkpoint: Path) -> None:
    values = {"input": "in", "output": "out", "model": {"name": str(checkpoint)}}
    with logged("labeler.labeling.resolve") as lines:
        resolve_job(make_config({**values, "vocabulary": ["cat", "- dog", *(f"{n}: cat" for n in range(6))]}))
    assert 'vocabulary: entry 2: "- dog" begins with a bullet' in lines[0]
    assert lines[5:] == ["and 2 more; `labeler vocabulary check` shows all"]
    with logged("labeler.labeling.resolve") as lines:
        resolve_job(make_config({**values, "vocabulary": ["cat", "dog"]}))
    assert lines == []


def test_more_pairs_than_a_forward_takes_are_warned_of_once(checkpoint: Path) -> None:
    values = {"input": "in", "output": "out", "model": {"name": str(checkpoint)}, "vocabulary": ["cat"]}
    with logged("labeler.labeling.resolve") as lines:
        for pairs in (None, 1, 32):
            resolve_job(make_config({**values, "detect": {"pairs_per_batch": pairs}}))
        assert lines == []
        resolve_job(make_config({**values, "detect": {"pairs_per_batch": 64}}))
    assert lines == ["detect.pairs_per_batch=64 is more than a forward pass takes: 32 pairs are used"]


@pytest.mark.parametrize("names", [2, 900])
def test_a_unit_takes_20_seconds_at_most_and_that_of_a_run_stays(checkpoint: Path, names: int) -> None:
    words = ["cat", "dog", "bus", "traffic light", "red circle", "blue square"]
    vocabulary = (
        [*words[:names]] if names == 2 else [" ".join(words[i // 6**k % 6] for k in range(5)) for i in range(names)]
    )
    values = {"input": "in", "output": "out", "vocabulary": vocabulary, "model": {"name": str(checkpoint)}}
    made = resolve_job(make_config(values))
    unit = made.config.unit.images
    assert unit == min(256, 800 // made.plan.passes)
    assert (unit == 256) == (names == 2), made.plan.passes
    assert made.fields["unit.max_images"] == unit
    assert made.unit_seconds <= 20
    earlier = made.as_planned({"unit.max_images": 256})
    assert (earlier.config.unit.images, earlier.fields["unit.max_images"]) == (256, 256)
    named = resolve_job(make_config({**values, "unit": {"max_images": 300}}))
    assert named.fields["unit.max_images"] == 300


def test_a_run_is_worked_on_from_another_folder_than_it_was_started_in(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/tiny").symlink_to(checkpoint)
    monkeypatch.chdir(tmp_path)
    values = {"input": {"uri": "in", "exclude": ["old"]}, "output": "out", "vocabulary": ["cat", "dog"]}
    given = make_config({**values, "model": {"name": "models/tiny"}, "masks": {"model": str(tiny_sam("sam"))}})
    first = resolve_job(given)
    stored = public_config(first.config)
    assert stored["input"]["exclude"] == [str(tmp_path / "old")]
    monkeypatch.chdir("/")
    again = resolve_job(config_of_run(stored, where="the config of run x"))
    assert again.fields == first.fields
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    as_earlier_versions = {**stored, "model": {**stored["model"], "name": "models/tiny"}}
    with pytest.raises(Refused) as refused:
        resolve_job(config_of_run(as_earlier_versions, where="the config of run x"))
    assert str(refused.value).endswith("there is none at /models/tiny, set model.name to where it is")


@pytest.mark.parametrize("name", ["/no/such/folder", "./models/tiny", "~/no-such-models/tiny/1"])
def test_a_checkpoint_folder_that_is_not_here_is_no_matter_of_the_hub(name: str) -> None:
    with pytest.raises(Refused, match="does not exist on this machine") as refused:
        resolve_job(make_config({"input": "in", "output": "out", "vocabulary": ["cat"], "model": {"name": name}}))
    assert "cannot be reached" not in str(refused.value)
