"""Fusion against the published algorithm written down box by box, and against suppression as runs do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from labeler.labels.boxes import iou
from labeler.labels.detections import Detections
from labeler.labels.fusion import BoxFusion, Method
from labeler.labels.masks import Mask
from labeler.labels.merge import nms

Fused = list[tuple[int, float, list[float], int]]  # category, score, box, runs that agree


def scene(seed: int, *, objects: int, runs: int, categories: int = 3) -> list[Detections]:
    """What each of several runs found of the same objects, shaken; some boxes twice, some missed, some of nothing."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 150, (objects, 2))
    boxes, ids = np.hstack([corners, corners + rng.uniform(5, 60, (objects, 2))]), rng.integers(0, categories, objects)
    found = []
    for _ in range(runs):
        seen = rng.integers(0, objects, objects) if objects else np.zeros(0, int)
        shaken = boxes[seen] + rng.normal(0, 4, (objects, 4))
        shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2])
        found.append(Detections.of(shaken, rng.uniform(0, 1, objects).round(1), ids[seen]))
    return found


def by_the_paper(runs: Sequence[Detections], threshold: float) -> Fused:
    """Solovyev et al., "Weighted boxes fusion: ensembling boxes from different object detection models", section 3."""
    rows = [
        (found.scores[i], number, found.boxes[i].astype(float), int(found.category_ids[i]))
        for number, found in enumerate(runs)
        for i in range(len(found))
    ]
    clusters: list[list[tuple[float, int, np.ndarray, int]]] = []
    for row in sorted(rows, key=lambda each: (-each[0], *each[2], each[1])):
        overlaps = [iou(_mean_box(c)[None], row[2][None])[0, 0] if c[0][3] == row[3] else -1.0 for c in clusters]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if best >= 0 and overlaps[best] > threshold:
            clusters[best].append(row)
        else:
            clusters.append([row])
    fused: Fused = []
    for cluster in clusters:
        agree = len({number for _, number, _, _ in cluster})
        score = float(np.mean([score for score, _, _, _ in cluster])) * min(agree, len(runs)) / len(runs)
        fused.append((cluster[0][3], score, _mean_box(cluster).tolist(), agree))
    return fused


def _mean_box(cluster: list[tuple[float, int, np.ndarray, int]]) -> np.ndarray:
    weights = np.array([max(float(score), 1e-9) for score, _, _, _ in cluster])
    mean: np.ndarray = (weights[:, None] * np.array([box for _, _, box, _ in cluster])).sum(0) / weights.sum()
    return mean


def fuse(images: Sequence[Sequence[Detections]], method: Method = "wbf", threshold: float = 0.55) -> list[Detections]:
    asked = [np.full(sum(map(len, runs)), len(runs)) for runs in images]
    return BoxFusion(method, threshold).apply(images, asked)


def as_tuples(found: Detections) -> Fused:
    return [
        (int(found.category_ids[i]), float(found.scores[i]), found.boxes[i].tolist(), int(found.more["agreement"][i]))
        for i in range(len(found))
    ]


def same(ours: Fused, theirs: Fused) -> None:
    order = sorted(theirs, key=lambda each: (-round(each[1], 5), each[0], [round(x, 3) for x in each[2]]))
    mine = sorted(ours, key=lambda each: (-round(each[1], 5), each[0], [round(x, 3) for x in each[2]]))
    assert [each[0::3] for each in mine] == [each[0::3] for each in order]
    np.testing.assert_allclose([each[1] for each in mine], [each[1] for each in order], atol=1e-5)
    np.testing.assert_allclose([x for e in mine for x in e[2]], [x for e in order for x in e[2]], atol=1e-3)


@pytest.mark.parametrize("runs", [2, 3])
@pytest.mark.parametrize("threshold", [0.3, 0.55, 0.8])
def test_weighted_boxes_are_those_of_the_paper(runs: int, threshold: float) -> None:
    images = [scene(seed, objects=seed % 13, runs=runs) for seed in range(60)]
    for found, these in zip(fuse(images, threshold=threshold), images, strict=True):
        same(as_tuples(found), by_the_paper(these, threshold))


def test_suppression_keeps_the_boxes_that_a_run_of_all_would_keep() -> None:
    images = [scene(seed, objects=12, runs=3, categories=2) for seed in range(40)]
    for found, runs in zip(fuse(images, "nms"), images, strict=True):
        expected = nms(Detections.concat(runs), nms_iou=0.55)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        np.testing.assert_array_equal(found.scores, expected.scores)
        assert (found.more["agreement"] >= 1).all()
        assert (found.more["agreement"] <= 3).all()


def test_the_order_of_the_rows_does_not_matter() -> None:
    runs = scene(5, objects=30, runs=2)
    rng = np.random.default_rng(1)
    shuffled = [found[rng.permutation(len(found))] for found in runs]
    (first,), (second,) = fuse([runs]), fuse([shuffled])
    assert as_tuples(first) == as_tuples(second)


def test_runs_that_agree_keep_a_score_and_a_run_alone_loses_its_share() -> None:
    box = Detections.of([[0, 0, 10, 10], [50, 50, 80, 80]], [0.8, 0.6], [1, 1])
    (found,) = fuse([[box, box[:1]]])
    assert found.scores.tolist() == pytest.approx([0.8, 0.3])
    assert found.more["agreement"].tolist() == [2, 1]
    (alone,) = fuse([[box]])
    assert alone.scores.tolist() == pytest.approx([0.8, 0.6]), "the only run that has seen the image"


def test_two_boxes_of_one_run_are_no_agreement() -> None:
    twice = Detections.of([[0, 0, 10, 10], [0, 0, 10, 10.5]], [0.8, 0.8], [1, 1])
    (found,) = fuse([[twice, Detections.empty()]])
    assert found.more["agreement"].tolist() == [1]
    assert found.scores.tolist() == pytest.approx([0.4])


def test_runs_that_did_not_look_for_a_category_do_not_count() -> None:
    box = Detections.of([[0, 0, 10, 10]], [0.8], [1])
    (found,) = BoxFusion("wbf", 0.55).apply([[box, Detections.empty()]], [np.array([1])])
    assert found.scores.tolist() == pytest.approx([0.8])


def test_a_mask_stays_with_the_best_box_and_is_dropped_where_the_box_moves() -> None:
    mask = Mask.of_window(np.ones((20, 20), np.bool_), left=0, top=0, height=20, width=20)
    best = Detections.of([[0, 0, 10, 10]], [0.9], [1]).with_masks([mask])
    other = Detections.of([[0, 0, 10, 11]], [0.5], [1]).with_masks([None])
    assert fuse([[other, best]], "nms")[0].mask_of(0) == mask
    assert fuse([[other, best]], "wbf")[0].masks is None


def test_no_image_and_no_box() -> None:
    assert fuse([]) == []
    (found,) = fuse([[Detections.empty(), Detections.empty()]])
    assert len(found) == 0


def test_a_box_with_score_0_keeps_its_place() -> None:
    nothing = Detections.of([[3, 4, 10, 12]], [0.0], [1])
    (found,) = fuse([[nothing, nothing]])
    assert found.boxes.tolist() == [[3, 4, 10, 12]]


def test_the_best_of_an_image_are_kept() -> None:
    apart = Detections.of([[40 * i, 0, 40 * i + 10, 10] for i in range(5)], [0.1, 0.5, 0.3, 0.9, 0.7], [1] * 5)
    (found,) = BoxFusion("wbf", 0.55, max_detections=2).apply([[apart]], [np.ones(5, int)])
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert replace(found, more={}).boxes[:, 0].tolist() == [120, 160]
