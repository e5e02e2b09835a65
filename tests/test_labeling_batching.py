from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from labeler.labeling.batching import ShapePool, bytes_of, images_together


def batches_of(images: list[tuple[int, str]], batch: int, **limits: int) -> list[list[tuple[int, str]]]:
    pool: ShapePool[tuple[int, str]] = ShapePool(batch, **limits)
    given = [each for image in images for each in pool.add(image, image[1])]
    return [*given, *pool.rest()]


def test_no_images_make_no_batches() -> None:
    assert batches_of([], 4) == []


def test_every_image_comes_out_once_among_its_like_in_batches_that_are_not_too_large() -> None:
    rng = random.Random(0)
    images = [(n, rng.choice("aaabbcdefgh")) for n in range(500)]
    batches = batches_of(images, 8)
    assert Counter(image for batch in batches for image in batch) == Counter(images)
    assert all(len({shape for _, shape in batch}) == 1 for batch in batches)
    assert max(map(len, batches)) == 8
    assert all(batch == sorted(batch) for batch in batches)


def test_a_batch_of_one_waits_for_nobody() -> None:
    images = [(0, "a"), (1, "b"), (2, "a")]
    assert batches_of(images, 1) == [[image] for image in images]


def test_no_more_wait_than_may_and_the_longest_waiting_goes_first() -> None:
    pool: ShapePool[int] = ShapePool(2, most=4)
    assert [pool.add(n, shape) for n, shape in enumerate("abc")] == [[], [], []]
    assert pool.add(3, "d") == [[0]]  # four wait: that is too many
    assert pool.add(4, "b") == [[1, 4]]
    assert list(pool.rest()) == [[2], [3]]


def test_what_waits_takes_no_more_bytes_than_it_may() -> None:
    """Of photographs in full, which a GPU resizes, a few are as large as a hundred others."""
    pool: ShapePool[int] = ShapePool(4, most_bytes=100)
    assert [pool.add(n, shape, 30) for n, shape in enumerate("aab")] == [[], [], []]
    assert pool.add(3, "c", 30) == [[0, 1]]
    assert pool.add(4, "d", 90) == [[2], [3]]  # as many as it takes
    assert pool.add(5, "e", 500) == [[4], [5]]  # larger than all that may wait
    assert list(pool.rest()) == []
    for n in range(3):
        pool.add(n, "a", 30)
    assert pool.add(3, "a", 30) == [[0, 1, 2, 3]]  # which is full, and there is room again
    assert pool.add(4, "b", 100) == []


def test_pixels_count_wherever_they_are() -> None:
    pixels = np.zeros((2, 5, 3), np.uint8)
    assert bytes_of(pixels, SimpleNamespace(pixels=pixels)) == 60
    assert bytes_of(None, "unknown") == 0


@pytest.mark.parametrize(
    ("per_forward", "together"), [(1, 8), (2, 8), (3, 9), (5, 10), (8, 8), (10, 10), (16, 16), (32, 32), (64, 32)]
)
def test_images_go_to_a_detector_in_whole_forwards(per_forward: int, together: int) -> None:
    """If five share a forward pass, eight at a time would be one of five and one of three."""
    assert images_together(per_forward) == together


def test_a_unit_of_many_shapes_waits_far_enough_to_fill_its_forwards() -> None:
    """68 shapes, six of them often, as photographs have: a third more forward passes if only 64 images may wait."""
    shapes = [n for n, often in enumerate([30, 20, 16, 12, 10, 8] + [2] * 62) for _ in range(often)]
    rng = random.Random(2)
    units = [[(n, str(rng.choice(shapes))) for n in range(256)] for _ in range(20)]

    def forwards(**limits: int) -> int:
        return sum(len(batches_of(unit, 8, **limits)) for unit in units)

    as_it_is, few_waiting, whole_units = forwards(), forwards(most=64), forwards(most=257)
    assert as_it_is < 0.8 * few_waiting
    assert as_it_is < 1.08 * whole_units


def test_images_of_few_shapes_fill_the_forwards_that_their_order_would_leave_empty() -> None:
    rng = random.Random(1)
    images = [(n, rng.choice("aaaabbcd")) for n in range(256)]
    in_order = sum(len({shape for _, shape in images[start : start + 8]}) for start in range(0, 256, 8))
    assert len(batches_of(images, 8)) < in_order / 2
