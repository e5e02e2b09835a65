"""Tiled images through the labeling of units: against each tile cropped by hand and detected on as an image of its own.

The reference is written out here: Pillow crops, boxes shifted and judged one by one, suppression by brute force.
"""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from labeler import images
from labeler.detectors.batched import BatchedDetector
from labeler.labeling.tiled import one_ahead
from labeler.labeling.unit import UnitLabeler
from labeler.labels.records import rows_to_table
from labeler.segmenters import Sam, resolve_segmenter
from labeler.shards import Item
from tests.detector_parts import assert_same, photo, poison
from tests.segmenter_parts import tiny_sam
from tests.tiled_parts import (
    LARGE,
    NAMES,
    OVERLAP,
    SMALL,
    TILE,
    WIDE,
    Configured,
    assert_equal,
    by_hand,
    config_for,
    drawn,
    item,
    labeler_of,
    without_merging,
)


@pytest.fixture
def configured(mm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configured:
    """A config of a family with these options of `detect`."""
    return lambda family, **detect: config_for(family, mm_folder, tmp_path, monkeypatch, **detect)


SLOW = ("owl-vit", "detr", "sam3")  # their like are not


@pytest.mark.parametrize("family", [pytest.param(f, marks=[pytest.mark.slow] * (f in SLOW)) for f in NAMES])
def test_rows_are_those_of_tiles_that_are_images_of_their_own(family: str, configured: Configured) -> None:
    large, wide, small = drawn(LARGE, WIDE, SMALL)
    tiled = labeler_of(configured(family, tile=TILE, tile_overlap=OVERLAP))
    rows, work = tiled.label("000000", [item(0, large), item(1, wide), item(2, small)])
    assert [row.status for row in rows] == ["labeled"] * 3
    assert tiled.detector is not None
    assert work.filled == (3 * 3 + 1) + (3 + 1) + 1
    assert work.passes == work.filled * tiled.detector.passes
    alone = labeler_of(without_merging(configured(family)))
    for row, pixels in zip(rows, (large, wide), strict=False):
        expected, cuts, of_tiles = by_hand(alone, pixels, nms_iou=0.5, most=60)
        assert cuts > 0 or family == "sam3"  # whose drawn weights put every box inside
        assert of_tiles > 0
        assert_equal(row, expected)
        assert (row.width, row.height) == pixels.shape[1::-1]
    not_tiled, _ = labeler_of(configured(family)).label("000000", [item(2, small)])
    assert rows_to_table(rows[2:]) == rows_to_table(not_tiled)


def test_a_box_that_is_cut_suppresses_nothing_and_takes_no_place_under_the_cap(configured: Configured) -> None:
    labeler = labeler_of(configured("cut", tile=TILE, tile_overlap=OVERLAP, max_detections=1))
    ((row,), _) = labeler.label("000000", [item(0, drawn(WIDE)[0])])
    assert row.detections.scores.tolist() == pytest.approx([0.9])  # of the tile at the border
    labeler = labeler_of(configured("cut", tile=TILE, tile_overlap=OVERLAP, max_detections=9))
    ((row,), _) = labeler.label("000000", [item(0, drawn(WIDE)[0])])
    found = [
        (round(float(score), 1), box.tolist())
        for score, box in zip(row.detections.scores, row.detections.boxes, strict=True)
    ]
    assert found == [(0.9, [0, 20, 40, 40]), (0.5, [26, 20, 63, 40]), (0.5, [49, 20, 86, 40])]


def test_tiles_of_several_images_share_forwards_and_rows_are_those_of_tiles_alone(configured: Configured) -> None:
    config = configured("grounding-dino", tile=TILE, tile_overlap=OVERLAP, pairs_per_batch=8)
    items = [item(n, pixels) for n, pixels in enumerate(drawn(WIDE, SMALL, WIDE))]
    items[1:1] = [Item("x.png", 9, "u", None, None, b"no image"), Item("y.png", 8, "u", None, None, None, "gone")]
    one_by_one = labeler_of(config, images_per_batch=1)
    detector = one_by_one.detector
    assert detector is not None
    assert detector.images_per_forward == 4
    alone, one_each = one_by_one.label("000000", items)
    again_made = {"make_detector": lambda: detector, "images_per_batch": 4}
    labelers = [labeler_of(config, decode_threads=threads, **again_made) for threads in (0, 3)]
    shared, *again = [each.label("000000", items) for each in labelers]
    views = 2 * 4 + 1
    assert (one_each.forwards, one_each.filled) == (views, views)
    # 6 tiles of both images in 2 forward passes, their 2 full views in 1, the small image
    assert (shared[1].forwards, shared[1].filled, shared[1].passes) == (4, views, 2 * views)
    for got, expected in zip(shared[0], alone, strict=True):
        assert replace(got, detections=expected.detections) == expected
        assert_same(got.detections, expected.detections)
    for rows, work in again:  # whatever the number of threads
        assert rows_to_table(rows) == rows_to_table(shared[0])
        assert work.forwards == 4


def test_a_tile_that_overflows_in_half_precision_is_done_in_float32_and_one_that_fails_fails_its_image(
    configured: Configured,
) -> None:
    pixels, bright = drawn(WIDE, WIDE)
    pixels = pixels.copy()
    pixels[:20, 23:43] = 0  # where the tile in the middle begins
    config = configured("grounding-dino", tile=TILE, tile_overlap=OVERLAP)
    half = config.model_copy(update={"model": config.model.model_copy(update={"dtype": "bfloat16"})})
    labeler, alone = labeler_of(half), labeler_of(without_merging(half))
    for each in (labeler.detector, alone.detector):
        assert isinstance(each, BatchedDetector)
        poison(each, only_in_half=True)
    (row,), _ = labeler.label("000000", [item(0, pixels)])
    assert_equal(row, by_hand(alone, pixels, nms_iou=0.5, most=60)[0])
    assert isinstance(labeler.detector, BatchedDetector)
    poison(labeler.detector)
    rows, _ = labeler.label("000000", [item(0, pixels), item(1, bright)])
    assert [row.status for row in rows] == ["detect_error", "labeled"]
    assert rows[0].error == (
        "the model's scores or boxes are NaN or infinite, in the view of 64 x 40 pixels at (23, 0)"
    )


def test_memory_that_runs_out_halves_the_batch_of_tiles(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured("grounding-dino", tile=TILE, tile_overlap=OVERLAP, pairs_per_batch=8)
    items = [item(n, pixels) for n, pixels in enumerate(drawn(WIDE, WIDE))]
    labeler = labeler_of(config, images_per_batch=4)
    expected, _ = labeler.label("000000", items)
    assert isinstance(labeler.detector, BatchedDetector)
    forward: Any = labeler.detector.network.forward
    detect = forward.detect

    def short(image: Any, text: Any) -> Any:
        if len(image.features) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return detect(image, text)

    monkeypatch.setattr(forward, "detect", short)
    rows, work = labeler.label("000000", items)
    assert work.memory_halvings == 2
    for got, other in zip(rows, expected, strict=True):
        assert_same(got.detections, other.detections)


def test_an_error_of_a_view_is_its_image_s_and_names_the_view(configured: Configured) -> None:
    pixels, other = drawn(LARGE, LARGE)
    pixels = pixels.copy()
    pixels[36:100, 0:64] = 255
    labeler = labeler_of(configured("own", tile=TILE, tile_overlap=OVERLAP))
    rows, _ = labeler.label("000000", [item(0, pixels), item(1, other)])
    assert [(row.status, row.error) for row in rows] == [
        ("detect_error", "RuntimeError: all white, in the view of 64 x 64 pixels at (0, 36)"),
        ("labeled", None),
    ]


def test_an_image_with_too_many_tiles_is_too_large_and_is_not_detected_on(configured: Configured) -> None:
    large, wide = drawn(LARGE, WIDE)
    labeler = labeler_of(configured("own", tile=TILE, tile_overlap=OVERLAP, max_tiles=8))
    rows, work = labeler.label("000000", [item(0, large), item(1, wide)])
    assert [(row.status, row.error) for row in rows] == [
        ("too_large", "too large: 120 x 100 is 9 tiles of 64 pixels, the limit is 8"),
        ("labeled", None),
    ]
    assert work.filled == 4


def test_a_draft_never_shrinks_an_image_that_is_tiled(configured: Configured) -> None:
    """Images that are not tiled are still decoded smaller."""
    out = {size: io.BytesIO() for size in (900, 400)}
    for number, size in enumerate(out):
        Image.fromarray(photo(number, 900, 960)[:size, :size]).save(out[size], "JPEG", quality=90)
    items = [Item(f"{n}.jpg", n, "u", None, None, data.getvalue()) for n, data in enumerate(out.values())]
    tiles = {"tile": 400, "tile_overlap": 0.2}
    tiled = labeler_of(configured("rt_detr", **tiles, jpeg_draft=True)).label("000000", items)[0]
    expected = labeler_of(configured("rt_detr", **tiles)).label("000000", items)[0]
    drafted = labeler_of(configured("rt_detr", jpeg_draft=True)).label("000000", items)[0]
    assert rows_to_table(tiled[:1]) == rows_to_table(expected[:1])
    assert rows_to_table(tiled[1:]) == rows_to_table(drafted[1:]) != rows_to_table(expected[1:])


def test_an_image_whose_header_hides_its_size_is_tiled_all_the_same(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured("own", tile=TILE, tile_overlap=OVERLAP)
    items = [item(n, pixels) for n, pixels in enumerate(drawn(LARGE, SMALL, WIDE))]
    expected, _ = labeler_of(config).label("000000", items)
    for said in (None, (40, 110), (1000, 64), (2, 2)):  # none, another number of views, more, not tiled
        monkeypatch.setattr(images, "stored_size", lambda data, said=said: said)
        assert rows_to_table(labeler_of(config).label("000000", items)[0]) == rows_to_table(expected)


def test_few_images_are_open_at_a_time_however_many_views_they_have(configured: Configured) -> None:
    class Watched(UnitLabeler):
        opened = closed = most = 0
        lock = threading.Lock()

        def _open(self, *args: Any) -> Any:
            with self.lock:
                self.opened += 1
                self.most = max(self.most, self.opened - self.closed)
            return super()._open(*args)

        def _view(self, opened: Any, image: Any, tiled: Any, number: int) -> Any:
            ready = super()._view(opened, image, tiled, number)
            assert ready.prepared.pixels.base is None or number == len(tiled.views) - 1  # no tile holds the image
            with self.lock:
                self.closed += number == len(tiled.views) - 1
            return ready

    config = configured("own", tile=TILE, tile_overlap=OVERLAP)
    made = labeler_of(config)
    watched = Watched(made.detector, decode_threads=2, images_per_batch=8, tiling=config.detect.tiling)
    items = [item(n, pixels) for n, pixels in enumerate(drawn(*[LARGE] * 12))]
    units = [threading.Thread(target=watched.label, args=(f"{n:06d}", items)) for n in range(2)]
    for unit in units:
        unit.start()
    for unit in units:
        unit.join()
    assert watched.opened == watched.closed == 24
    assert watched.most <= 2 * 3  # of each unit one is opened, one is cut, and one has a last view under way


def test_the_next_image_is_opened_before_this_one_is_cut_unless_both_are_too_large() -> None:
    images_of = [(3, ["a", "a1", "a2"]), (0, ["b"]), (0, ["c"]), (4, ["d", "d1"]), (7, ["e", "e1", "e2"]), (0, ["f"])]
    assert list(one_ahead(images_of, most_bytes=10)) == ["a", "b", "a1", "a2", "c", "d", "d1", "e", "f", "e1", "e2"]
    assert list(one_ahead(images_of, most_bytes=11)) == ["a", "b", "a1", "a2", "c", "d", "e", "d1", "f", "e1", "e2"]
    assert list(one_ahead([], most_bytes=1)) == []


def test_masks_are_made_of_the_whole_image_for_the_boxes_of_its_tiles(configured: Configured) -> None:
    items = [item(0, drawn(LARGE)[0])]
    config = configured("own", tile=TILE, tile_overlap=OVERLAP)
    segmenter = Sam(resolve_segmenter(str(tiny_sam("sam2"))), device="cpu", threshold=0.3, max_masks=4)
    ((row,), work) = labeler_of(config, make_segmenter=lambda: segmenter).label("000000", items)
    ((plain,), _) = labeler_of(config).label("000000", items)
    assert row.detections.count_masks() == 4
    assert work.mask_s > 0
    np.testing.assert_array_equal(row.detections.boxes, plain.detections.boxes)
    expected = segmenter.segment(images.decode(items[0].data or b"").pixels, plain.detections)
    assert [row.detections.mask_of(n) for n in range(len(plain.detections))] == [
        expected.mask_of(n) for n in range(len(plain.detections))
    ]
    assert {(mask.height, mask.width) for mask in (row.detections.mask_of(n) for n in range(4)) if mask} == {LARGE}
