"""What labels on this machine is made of the job's own settings, in one place, with Ray and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labeler.config import make_config
from labeler.detectors.batched import BatchedDetector
from labeler.labeling import recipe
from labeler.labeling.recipe import LabelerRecipe, SegmenterRecipe, labeler_here, labeler_recipe
from labeler.labeling.resolve import Job, resolve_job
from labeler.segmenters import Sam
from labeler.shards import Item
from tests.inputs import image_bytes
from tests.segmenter_parts import tiny_sam
from tests.stub_detector import StubDetector


def job(checkpoint: Path, **more: Any) -> Job:
    values = {"input": "in", "output": "out", "vocabulary": ["cat"], "model": {"name": str(checkpoint)}}
    return resolve_job(make_config({**values, **more}))


def item(**options: Any) -> Item:
    return Item("0.png", 0, "u", None, None, image_bytes(0, width=40, height=30), **options)


def test_without_ray_the_jobs_own_limits_and_models_are_used(checkpoint: Path) -> None:
    masks = {"masks": {"model": str(tiny_sam("sam"))}}
    planned = job(checkpoint, detect={"max_pixels": 1000, "images_per_batch": 5}, ray={"cpus_per_worker": 1}, **masks)
    here = labeler_here(planned)
    assert isinstance(here.detector, BatchedDetector)
    assert isinstance(here.segmenter, Sam)
    assert here.images_per_batch == 5
    assert here.label("000000", [item()])[0][0].status == "too_large"
    assert labeler_here(planned, masks=False).segmenter is None


def test_another_detector_takes_the_place_of_the_jobs_own(checkpoint: Path) -> None:
    assert isinstance(labeler_recipe(job(checkpoint), threads=1, make_detector=StubDetector)().detector, StubDetector)


def test_the_detector_is_loaded_behind_the_segmenter_whose_memory_it_cannot_have() -> None:
    loaded: list[str] = []
    LabelerRecipe(lambda: loaded.append("detector") or StubDetector(), lambda: loaded.append("segmenter"))()  # type: ignore
    assert loaded == ["segmenter", "detector"]


def test_decoding_keeps_to_the_memory_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "decode_bytes", lambda threads: 12345 * threads)
    made = LabelerRecipe(StubDetector)()
    assert made._budget._limit == made.in_turn()._budget._limit == 12345


def test_a_worker_gets_the_threads_of_its_node_for_decoding_and_for_its_models() -> None:
    options = {"device": "cpu", "threads": 1}
    made = LabelerRecipe(StubDetector, SegmenterRecipe("sam", None, "digest", options), decode_threads=1)
    here = made.with_threads(7)
    assert here.decode_threads == 7
    assert isinstance(here.make_segmenter, SegmenterRecipe)
    assert here.make_segmenter.options == {"device": "cpu", "threads": 7}
    assert here.make_detector is StubDetector
    assert made.decode_threads == options["threads"] == 1


def test_in_turn_the_same_models_work_in_the_callers_thread() -> None:
    made = LabelerRecipe(StubDetector, decode_threads=2, images_per_batch=3, max_pixels=1000)()
    alone = made.in_turn()
    assert (alone.detector, alone.images_per_batch) == (made.detector, 3)
    assert alone.label("000000", [item()])[0][0].status == "too_large"
    assert made.in_turn(detect=False).detector is None


def test_the_config_chooses_what_decodes_jpegs_and_no_field_of_the_fingerprint_tells(checkpoint: Path) -> None:
    auto, pillow = job(checkpoint), job(checkpoint, detect={"jpeg_decoder": "pillow"})
    assert labeler_recipe(auto, make_detector=StubDetector)().description["jpeg_decoder"].startswith("simplejpeg ")
    assert labeler_recipe(pillow, make_detector=StubDetector)().description["jpeg_decoder"].startswith("pillow ")
    assert auto.fields == pillow.fields
