from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

from labeler.checkpoints import DetectorCheckpoint, image_processor_config
from labeler.detectors.preprocess import RESIZES, Preprocessing
from labeler.errors import Refused
from labeler.prompts import ImageRule
from labeler.prompts.families import DEFAULT
from labeler.prompts.image_rule import resized_shape

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def checkpoint(folder: Path, **config) -> DetectorCheckpoint:
    size = {"size": {"shortest_edge": 128, "longest_edge": 224}}
    (folder / "preprocessor_config.json").write_text(json.dumps(size | config))
    rule = DEFAULT.image_rule(image_processor_config(folder), {}, "here")
    return DetectorCheckpoint(folder, "here", None, "", "GroundingDinoForObjectDetection", DEFAULT, rule)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (800, 1066)),  # the longer side is truncated: 1066.67
        (640, 480, (1066, 800)),
        (500, 500, (800, 800)),
        (800, 900, (800, 900)),  # already right: untouched
        (400, 1000, (533, 1333)),  # the longer side would pass 1333
        (1, 5000, (1, 1333)),  # never 0
    ],
)
def test_the_shorter_side_becomes_the_shortest_edge_within_the_longest(height, width, expected):
    assert resized_shape(height, width, 800, 1333) == expected


@settings(max_examples=1000, deadline=None)
@given(height=st.integers(1, 6000), width=st.integers(1, 6000), shortest=st.integers(32, 900), room=st.integers(0, 700))
@example(height=427, width=640, shortest=800, room=533)
@example(height=1333, width=3, shortest=800, room=533)
def test_sizes_equal_those_of_transformers(height, width, shortest, room):
    theirs = get_size_with_aspect_ratio((height, width), shortest, shortest + room)
    ours = resized_shape(height, width, shortest, shortest + room)
    assert ours == tuple(max(side, 1) for side in theirs)


@pytest.mark.parametrize("shape", [(90, 120), (300, 100), (128, 150), (77, 500), (500, 77), (1000, 900)])
def test_resized_pixels_equal_those_of_the_pillow_processor(tmp_path, shape):
    config = {"size": {"shortest_edge": 128, "longest_edge": 224}, **IMAGENET}
    processor = GroundingDinoImageProcessorPil(**config, do_rescale=False, do_normalize=False)
    image = noise(*shape)
    prepared = Preprocessing.of(checkpoint(tmp_path, **config)).prepare(image)
    theirs = np.moveaxis(np.asarray(processor(image)["pixel_values"][0]), 0, -1)
    assert prepared.pixels.dtype == np.uint8
    assert np.array_equal(prepared.pixels, theirs)
    assert (prepared.height, prepared.width) == shape


def test_the_checkpoints_own_settings_are_taken(tmp_path):
    folder = checkpoint(
        tmp_path, resample=3, rescale_factor=0.5, image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3], do_normalize=True
    )
    settings = Preprocessing.of(folder)
    assert settings.rule == ImageRule("edges", (128, 224), 1, 0, 3, 0.5, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


def test_without_settings_the_published_ones_hold(tmp_path):
    settings = Preprocessing.of(checkpoint(tmp_path, size=None))
    assert settings.rule == ImageRule(
        "edges", (800, 1333), 1, 0, 2, 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )


def test_a_checkpoint_that_does_not_normalise_is_not_normalised(tmp_path):
    settings = Preprocessing.of(checkpoint(tmp_path, do_normalize=False, do_rescale=False, **IMAGENET))
    assert (settings.rule.scale, settings.rule.mean, settings.rule.std) == (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_another_size_can_be_asked_for(tmp_path):
    assert Preprocessing.of(checkpoint(tmp_path), (64, 96)).prepare(noise(100, 100)).pixels.shape == (64, 64, 3)


@pytest.mark.parametrize("shape", [(90, 120), (300, 100), (500, 77), (1000, 900)])
def test_the_fast_resize_is_within_a_level_of_the_processors(tmp_path, shape):
    exact = Preprocessing.of(checkpoint(tmp_path)).prepare(noise(*shape))
    fast = Preprocessing.of(checkpoint(tmp_path), resize="torch").prepare(noise(*shape))
    assert fast.pixels.shape == exact.pixels.shape
    assert (fast.height, fast.width) == shape
    assert np.abs(fast.pixels.astype(int) - exact.pixels).max() <= 1


def test_an_image_of_the_right_size_is_left_alone_by_both(tmp_path):
    image = noise(128, 150)
    for resize in RESIZES:
        assert np.array_equal(Preprocessing.of(checkpoint(tmp_path), resize=resize).prepare(image).pixels, image)


@pytest.mark.parametrize("resize", RESIZES)
def test_an_image_that_was_decoded_smaller_comes_to_the_same_size_and_keeps_its_frame(tmp_path, resize):
    settings = Preprocessing.of(checkpoint(tmp_path), resize=resize)
    prepared = settings.prepare(noise(301, 401), full_size=(1203, 1603))  # 4 * 401 = 1604, cut off at 1603
    assert prepared.pixels.shape[:2] == settings.rule.target(1203, 1603) == (128, 170)
    assert (prepared.height, prepared.width) == (1203, 1603)


def test_a_resize_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(Refused, match="resize is one of pillow, torch; got opencv"):
        Preprocessing.of(checkpoint(tmp_path), resize="opencv")
    with pytest.raises(Refused, match=r"detect\.resize=torch: checkpoint .* does not resize bilinearly; leave it out"):
        Preprocessing.of(checkpoint(tmp_path, resample=1), resize="torch")  # Lanczos


@pytest.mark.parametrize("size", [(0, 100), (100, 99), (-1, -1)])
def test_an_impossible_size_is_refused(tmp_path, size):
    with pytest.raises(Refused, match="image_size"):
        Preprocessing.of(checkpoint(tmp_path), size)


def test_unusable_means_are_refused(tmp_path):
    with pytest.raises(Refused, match="image_mean"):
        Preprocessing.of(checkpoint(tmp_path, image_mean=[0.5], image_std=[0.5]))


@pytest.mark.parametrize("resample", ["bilinear", 9])
def test_a_filter_that_pillow_does_not_have_is_refused(tmp_path, resample):
    with pytest.raises(Refused, match="resample is Pillow's number of a filter, 0 to 5"):
        Preprocessing.of(checkpoint(tmp_path, resample=resample))


@pytest.mark.parametrize("image", [noise(9, 9)[..., 0], noise(9, 9).astype(np.float32), np.zeros((9, 9, 4), np.uint8)])
def test_what_is_not_an_rgb_image_is_named(tmp_path, image):
    with pytest.raises(ValueError, match="uint8 RGB"):
        Preprocessing.of(checkpoint(tmp_path)).prepare(image)


@pytest.mark.parametrize("resize", RESIZES)
def test_many_threads_prepare_the_same_as_one(tmp_path, resize):
    settings = Preprocessing.of(checkpoint(tmp_path), resize=resize)
    images = [noise(60 + 7 * n, 200 - 5 * n, n) for n in range(16)]
    together: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        together[number] = settings.prepare(images[number]).pixels

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, image in enumerate(images):
        assert np.array_equal(together[number], settings.prepare(image).pixels)
