"""The trained checkpoint that comes with the project: it finds what it is asked for, however the names are packed."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labeler import checkpoints
from labeler.detectors import GroundingDino
from labeler.labeling.unit import UnitLabeler
from labeler.prompts.grounding_dino import pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.shards import Item
from labeler.training.validation import measure, shapes_validation

MODEL = Path(__file__).parent.parent / "models" / "shapes"
SCENES = 40


@cache
def data():
    return shapes_validation(4242, SCENES)


@cache
def found(max_categories: int | None, engine: str = "auto", scenes: int = SCENES):
    prompts = pack(data().vocabulary, Tokenizer.load(MODEL), max_tokens=256, max_categories=max_categories)
    detector = GroundingDino(MODEL, prompts, device="cpu", threads=1, engine=engine)
    assert len(prompts.chunks) == (1 if max_categories is None else 4)
    return detector.detect([image.pixels for image in data().images[:scenes]])


@cache
def average_precision(max_categories: int | None, engine: str = "auto") -> dict[str, float]:
    return measure(data(), found(max_categories, engine))


def test_it_finds_shapes_and_names_it_never_saw() -> None:
    measured = average_precision(None)
    assert measured["ap_seen"] > 0.5
    assert measured["ap_held_out"] > 0.35


@pytest.mark.parametrize("group", ["ap_seen", "ap_held_out"])
def test_four_chunks_are_as_good_as_one_prompt(group: str) -> None:
    assert average_precision(20)[group] == pytest.approx(average_precision(None)[group], abs=0.06)


def test_the_fast_engine_has_the_average_precision_of_the_reference() -> None:
    fast, reference = average_precision(None), average_precision(None, "transformers")
    assert fast == pytest.approx(reference, abs=5e-4)


def test_the_fast_engine_has_the_detections_of_the_reference() -> None:
    few = 12  # with four chunks the reference takes four times as long, and a difference shows in any image
    for ours, theirs in zip(found(20)[:few], found(20, "transformers", few), strict=True):
        strong, reference = ours[ours.scores > 0.2], theirs[theirs.scores > 0.2]
        assert len(strong) == len(reference)
        assert sorted(strong.category_ids.tolist()) == sorted(reference.category_ids.tolist())
        np.testing.assert_allclose(np.sort(strong.scores), np.sort(reference.scores), atol=1e-4)


def test_a_12_megapixel_jpeg_decoded_at_an_eighth_has_the_boxes_of_the_full_one_in_its_own_pixels() -> None:
    large = Image.fromarray(data().images[0].pixels).resize((4000, 3000), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    large.save(buffer, "JPEG", quality=90)
    item = Item("large.jpg", 0, "u", None, None, buffer.getvalue(), None, {})
    rows = []
    for draft in (False, True):
        detector = GroundingDino(MODEL, data().vocabulary, device="cpu", threads=1, jpeg_draft=draft)
        labeler = UnitLabeler(detector, decode_threads=1, images_per_batch=1)
        rows += labeler.label("000000", [item])[0]
    full, drafted = rows
    assert (full.width, full.height) == (drafted.width, drafted.height) == (4000, 3000)
    assert ((full.phash ^ drafted.phash) & (2**64 - 1)).bit_count() <= 2
    strong = full.detections.above(0.4)
    near = drafted.detections.above(0.3)
    assert len(strong) > 2
    assert strong.boxes.max() > 1000
    for box, category_id in zip(strong.boxes, strong.category_ids, strict=True):
        others = near.boxes[near.category_ids == category_id]
        assert np.abs(others - box).max(1).min() < 20  # two thirds of a pixel of what the detector sees


NARROW = [(60, 900), (900, 60), (100, 670), (1, 3000), (3000, 1), (1, 1)]


@pytest.mark.parametrize("engine", ["fast", "transformers"])
def test_very_wide_and_tall_images_are_labeled_and_have_their_size_and_hash(engine: str) -> None:
    pixels = data().images[0].pixels
    items = []
    for index, (height, width) in enumerate(NARROW):
        buffer = io.BytesIO()
        Image.fromarray(np.resize(pixels, (height, width, 3))).save(buffer, "PNG")
        items.append(Item(f"{index}.png", index, "u", None, None, buffer.getvalue(), None, {}))
    detector = GroundingDino(MODEL, data().vocabulary, device="cpu", threads=1, engine=engine, score_floor=0)
    rows = UnitLabeler(detector, decode_threads=1).label("000000", items)[0]
    assert [(row.status, row.height, row.width) for row in rows] == [("labeled", *size) for size in NARROW]
    for row in rows:
        assert row.phash is not None
        boxes = row.detections.boxes
        assert boxes.min() >= 0
        assert (boxes <= [row.width, row.height, row.width, row.height]).all()


def test_a_strip_of_shapes_is_labeled_by_both_engines_in_its_own_pixels() -> None:
    """Four scenes' upper parts, side by side: 7.5 times as wide as high, so that the backbone needs padding."""
    scenes = [np.asarray(Image.fromarray(each.pixels).resize((150, 80))) for each in data().images[:4]]
    strip = np.concatenate(scenes, 1)
    assert strip.shape == (80, 600, 3)
    (ours,), (theirs,) = (
        GroundingDino(MODEL, data().vocabulary, device="cpu", threads=1, engine=engine).detect([strip])
        for engine in ("fast", "transformers")
    )
    assert len(ours) == len(theirs) > 0
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.05)
    assert ours.boxes[:, 2].max() > 300  # right of the middle


def test_it_is_small_and_complete() -> None:
    checkpoint = checkpoints.resolve(MODEL)
    assert checkpoint.architecture == "MMGroundingDinoForObjectDetection"
    assert (MODEL / "model.safetensors").stat().st_size <= 12 * 2**20
    assert {"training.yaml", "training.jsonl", "README.md", "vocab.txt"} <= {file.name for file in MODEL.iterdir()}


def test_label_never_falls_back_to_it() -> None:
    package = MODEL.parent.parent / "labeler"
    assert not [file for file in package.rglob("*.py") if "models/shapes" in file.read_text()]
