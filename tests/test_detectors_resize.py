from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from labeler.detectors.resize import resize_torch

SIZES = [  # (height, width) -> (height, width)
    ((1, 1), (7, 5)),
    ((90, 120), (800, 1066)),  # up
    ((480, 640), (800, 1066)),
    ((1080, 1920), (749, 1333)),  # down
    ((1500, 2000), (800, 1066)),
    ((77, 500), (34, 224)),
    ((500, 77), (224, 34)),  # a column
    ((3, 2000), (2, 1333)),
    ((900, 31), (1333, 46)),
    ((700, 500), (31, 900)),  # one side up, the other down
    ((2000, 17), (3, 17)),  # six hundred rows into one
    ((128, 200), (128, 199)),  # one side stays
]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Of full contrast: the worst for rounding."""
    random = np.random.default_rng(seed)
    return (random.integers(0, 2, (height, width, 3)) * 255 * random.random((height, width, 1)) ** 0.2).astype(np.uint8)


def pillows(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_no_value_is_more_than_one_level_from_pillows(source, target):
    image = noise(*source)
    resized = resize_torch(image, *target)
    assert resized.dtype == np.uint8
    assert resized.flags.c_contiguous
    assert resized.shape == (*target, 3)
    assert np.abs(resized.astype(int) - pillows(image, *target)).max() <= 1


def test_a_hundred_sizes_at_random_are_within_one_level():
    random = np.random.default_rng(1)
    for number in range(100):
        source, target = (tuple(int(side) for side in 2 ** random.uniform(0, 9, 2)) for _ in range(2))
        image = noise(*source, number)
        off = np.abs(resize_torch(image, *target).astype(int) - pillows(image, *target)).max()
        assert off <= 1, (source, target, off)


def test_the_result_is_not_turned_around_which_would_cost_more_than_the_resize():
    assert resize_torch(noise(48, 64), 80, 106).base is not None  # torch's own memory, no copy


@pytest.mark.filterwarnings("error")
def test_images_that_are_views_or_cannot_be_written_are_taken_as_they_are():
    image = noise(60, 80)
    expected = resize_torch(image, 30, 40)
    locked = image.copy()
    locked.setflags(write=False)
    mirrored = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
    turned = np.ascontiguousarray(image.transpose(1, 0, 2)).transpose(1, 0, 2)
    for same in (locked, mirrored, turned):
        assert np.array_equal(resize_torch(same, 30, 40), expected)


def test_a_decode_thread_uses_one_torch_thread_and_the_main_thread_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        used = []

        def work() -> None:
            resize_torch(noise(60, 80), 30, 40)
            used.append(torch.get_num_threads())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        resize_torch(noise(60, 80), 30, 40)
        assert used == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
