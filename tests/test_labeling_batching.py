from __future__ import annotations

import random
from collections import Counter

from labeler.labeling.batching import ShapePool


def batches_of(images: list[tuple[int, str]], batch: int, **options: int) -> list[list[tuple[int, str]]]:
    pool: ShapePool[tuple[int, str]] = ShapePool(batch, **options)
    given = [pool.add(image, image[1]) for image in images]
    return [each for each in (*given, *pool.rest()) if each]


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
    pool: ShapePool[int] = ShapePool(2, batches_waiting=2)
    assert [pool.add(n, shape) for n, shape in enumerate("abc")] == [[], [], []]
    assert pool.add(3, "d") == [0]  # four wait: that is too many
    assert pool.add(4, "b") == [1, 4]
    assert list(pool.rest()) == [[2], [3]]


def test_images_of_few_shapes_fill_the_forwards_that_their_order_would_leave_empty() -> None:
    rng = random.Random(1)
    images = [(n, rng.choice("aaaabbcd")) for n in range(256)]
    in_order = sum(len({shape for _, shape in images[start : start + 8]}) for start in range(0, 256, 8))
    assert len(batches_of(images, 8)) < in_order / 2
