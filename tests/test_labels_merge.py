from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeler.labels import merge as merging
from labeler.labels.detections import Detections
from labeler.labels.merge import merge, nms


def one_by_one(detections: Detections, nms_iou: float) -> list[int]:
    """Rows kept by the plainest possible suppression: compare each row, best first, with every row kept so far."""
    kept: list[int] = []
    rows = zip(detections.boxes.tolist(), detections.category_ids.tolist(), strict=True)
    for row, (box, category) in enumerate(rows):
        overlaps = (
            plain_iou(box, detections.boxes[other].tolist())
            for other in kept
            if detections.category_ids[other] == category
        )
        if all(overlap <= nms_iou for overlap in overlaps):
            kept.append(row)
    return kept


def plain_iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


def random_detections(seed: int, n: int = 60) -> Detections:
    """Crowded on purpose: coarse coordinates and scores make equal boxes and equal scores common."""
    generator = np.random.default_rng(seed)
    corner = generator.integers(0, 8, (n, 2))
    boxes = np.concatenate([corner, corner + generator.integers(1, 8, (n, 2))], axis=1)
    scores, categories, chunks = (generator.integers(low, high, n) for low, high in [(1, 9), (1, 4), (0, 3)])
    return Detections.of(boxes, scores / 10, categories, chunks)


def same(a: Detections, b: Detections) -> bool:
    return all(
        np.array_equal(getattr(a, field), getattr(b, field)) for field in ("boxes", "scores", "category_ids", "chunks")
    )


def test_nothing_merges_to_nothing():
    assert len(merge(Detections.empty(), nms_iou=0.5, max_detections=10)) == 0


def test_one_detection_stays_as_it_is():
    one = Detections.of([[1, 2, 3, 4]], [0.5], [7], [2])
    assert same(merge(one, nms_iou=0.5, max_detections=10), one)


@pytest.mark.parametrize("nms_iou", [0.0, 0.3, 0.5, 0.7, 0.99])
@pytest.mark.parametrize("seed", range(5))
def test_suppression_equals_comparing_one_by_one(seed, nms_iou):
    detections = random_detections(seed).sorted()
    assert same(nms(detections, nms_iou=nms_iou), detections[one_by_one(detections, nms_iou)])


def test_the_better_of_two_overlapping_boxes_stays():
    pair = Detections.of([[0, 0, 10, 10], [0, 0, 10, 9]], [0.4, 0.6], [1, 1])
    assert merge(pair, nms_iou=0.5, max_detections=0).scores.tolist() == [pytest.approx(0.6)]


def test_an_overlap_of_exactly_the_threshold_is_kept():
    pair = Detections.of([[0, 0, 10, 10], [0, 0, 10, 5]], [0.6, 0.4], [1, 1])
    assert len(merge(pair, nms_iou=0.5, max_detections=0)) == 2
    assert len(merge(pair, nms_iou=0.499, max_detections=0)) == 1


def test_categories_do_not_suppress_each_other():
    pair = Detections.of([[0, 0, 10, 10], [0, 0, 10, 10]], [0.6, 0.4], [1, 2])
    assert len(merge(pair, nms_iou=0.5, max_detections=0)) == 2


def test_a_threshold_of_one_keeps_even_equal_boxes():
    pair = Detections.of([[0, 0, 10, 10], [0, 0, 10, 10]], [0.6, 0.4], [1, 1])
    assert len(merge(pair, nms_iou=1.0, max_detections=0)) == 2


def test_a_suppressed_box_suppresses_nothing_itself():
    chain = Detections.of([[0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]], [0.9, 0.8, 0.7], [1, 1, 1])
    assert merge(chain, nms_iou=0.5, max_detections=0).scores.tolist() == pytest.approx([0.9, 0.7])


def test_negatives_are_dropped_and_neither_suppress_nor_take_places():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]]
    found = Detections.of(boxes, [0.9, 0.5, 0.4], [99, 1, 2])
    merged = merge(found, nms_iou=0.5, max_detections=2, negative_ids={99})
    assert merged.category_ids.tolist() == [1, 2]


def test_a_suppressed_duplicate_takes_no_place_under_the_cap():
    found = Detections.of([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]], [0.9, 0.8, 0.1], [1, 1, 2])
    assert merge(found, nms_iou=0.5, max_detections=2).category_ids.tolist() == [1, 2]


def test_the_cap_keeps_the_best_of_all_chunks_and_zero_means_no_cap():
    boxes = [[i * 20, 0, i * 20 + 10, 10] for i in range(5)]
    found = Detections.of(boxes, [0.1, 0.5, 0.3, 0.9, 0.7], range(5), [0, 0, 1, 1, 2])
    assert merge(found, nms_iou=0.5, max_detections=3).category_ids.tolist() == [3, 4, 1]
    assert len(merge(found, nms_iou=0.5, max_detections=0)) == 5


def test_of_equal_rows_the_one_of_the_first_chunk_stays():
    rows = Detections.of([[0, 0, 10, 10]] * 2, [0.5, 0.5], [1, 1], [1, 0])
    for order in ([0, 1], [1, 0]):
        assert merge(rows[np.array(order)], nms_iou=0.5, max_detections=0).chunks.tolist() == [0]


def test_of_equal_scores_suppression_keeps_the_same_box_in_any_order():
    rows = Detections.of([[0, 0, 10, 10], [1, 0, 11, 10]], [0.5, 0.5], [1, 1])
    for order in ([0, 1], [1, 0]):
        assert nms(rows[np.array(order)], nms_iou=0.5).boxes.tolist() == [[0, 0, 10, 10]]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter_even_with_equal_scores(seed, order):
    detections = random_detections(seed, n=25)
    rows = list(range(len(detections)))
    order.shuffle(rows)
    shuffled = detections[np.array(rows)]
    assert same(merge(shuffled, nms_iou=0.5, max_detections=12), merge(detections, nms_iou=0.5, max_detections=12))


def drawn_scene(draw: st.DrawFn) -> Detections:
    """Up to 90 boxes, some without area, many equal, with few scores or many, in one category or many."""
    n, scores = draw(st.integers(0, 90)), draw(st.sampled_from([1, 3, 1000]))
    categories, side = draw(st.sampled_from([1, 4, 200])), draw(st.sampled_from([2, 6, 40]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    corner = generator.integers(0, side, (n, 2))
    boxes = np.concatenate([corner, corner + generator.integers(0, side, (n, 2))], axis=1)
    boxes = boxes + generator.choice([0, 1 / 3], (n, 1))  # not all of them exact in float32
    return Detections.of(
        boxes, generator.integers(0, scores + 1, n) / scores, generator.integers(0, categories, n), np.arange(n) % 3
    )


@settings(max_examples=300, deadline=None)
@given(
    found=st.composite(drawn_scene)(),
    nms_iou=st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.99, 1.0]),
    cap=st.sampled_from([0, 1, 2, 7, 30, 300]),
    rows_at_once=st.sampled_from([1, 2, 32]),
)
def test_merging_equals_comparing_one_by_one_whatever_the_cap(found, nms_iou, cap, rows_at_once):
    wanted = found[found.category_ids != 2]
    by_chunk = wanted[np.argsort(wanted.chunks, kind="stable")].sorted()
    expected = by_chunk[np.array(one_by_one(by_chunk, nms_iou), np.intp)] if nms_iou < 1 else by_chunk
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "_ROWS_AT_ONCE", rows_at_once)
        merged = merge(found, nms_iou=nms_iou, max_detections=cap, negative_ids={2})
    assert same(merged, expected[:cap] if cap else expected)


@pytest.mark.parametrize("equal_boxes", [1, 5, 100])
def test_the_cap_is_filled_however_many_of_the_best_are_duplicates(equal_boxes):
    """The best 2 x cap are looked at first; where they are copies of few boxes, that is not enough."""
    generator = np.random.default_rng(0)
    corner = np.repeat(np.arange(40) * 20, equal_boxes)
    boxes = np.stack([corner, corner, corner + 10, corner + 10], axis=1)
    found = Detections.of(boxes, np.repeat(np.arange(40, 0, -1) / 50, equal_boxes), np.zeros(len(boxes)))
    shuffled = found[generator.permutation(len(found))]
    merged = merge(shuffled, nms_iou=0.5, max_detections=12)
    assert merged.boxes[:, 0].tolist() == (np.arange(12) * 20).tolist()
    assert len(merge(shuffled, nms_iou=0.5, max_detections=60)) == 40
