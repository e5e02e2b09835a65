from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from labeler.images import choose_fast_jpeg
from labeler.labeling.unit import UnitLabeler
from labeler.labels.detections import Detections
from labeler.labels.records import rows_to_table
from labeler.shards import Item
from tests.inputs import image_bytes
from tests.jpegs import Counting, other_jpegs, plain_jpegs
from tests.stub_detector import StubDetector
from tests.waiting import wait_until


def item(index: int, data: bytes | None, error: str | None = None, **kept: str) -> Item:
    return Item(f"{index}.png", index, "u", None, None, data, error, kept)


def labeler(detector: Any = None, **options: Any) -> UnitLabeler:
    return UnitLabeler(detector or StubDetector(), **{"decode_threads": 2, "images_per_batch": 2, **options})


def test_no_items_make_no_rows() -> None:
    rows, seconds = labeler().label("000000", [])
    assert rows == []
    assert seconds.detect_s == 0


def test_every_item_has_one_row_in_its_place_whatever_happened_to_it() -> None:
    items = [
        item(0, image_bytes(0)),
        item(1, b"no image at all"),
        item(2, None, "truncated member"),
        item(3, image_bytes(3)),
        item(4, image_bytes(4, width=200, height=100)),
        item(5, b""),
    ]
    rows, _ = labeler(max_pixels=10_000).label("000007", items)
    assert [row.index for row in rows] == list(range(6))
    assert [row.status for row in rows] == [
        "labeled", "decode_error", "read_error", "labeled", "too_large", "decode_error",
    ]  # fmt: skip
    assert all(row.error for row in rows if row.status != "labeled")
    assert rows[2].error == "truncated member"
    assert rows[2].digest is None
    assert rows[1].digest is not None
    assert (rows[0].width, rows[0].height, rows[0].orientation) == (40, 30, 1)
    assert {row.shard_id for row in rows} == {"000007"}


def test_an_image_whose_detection_fails_is_named_and_its_neighbours_are_labeled() -> None:
    class Failing(StubDetector):
        def detect_prepared(self, batch: Sequence[Any]) -> list[Any]:
            return [ValueError("non-finite scores") if i == 0 else Detections.empty() for i in range(len(batch))]

    rows, _ = labeler(Failing()).label("000000", [item(0, image_bytes(0)), item(1, image_bytes(1))])
    assert [(row.status, row.error) for row in rows] == [("detect_error", "non-finite scores"), ("empty", None)]


def test_only_the_wanted_sidecars_are_kept() -> None:
    rows, _ = labeler().label("000000", [item(0, image_bytes(0), txt="caption", json="{}")], keep=("txt", "cls"))
    assert rows[0].kept == {"txt": "caption", "cls": None}


def test_decoding_stays_close_to_the_detector() -> None:
    """A decoded unit of large photographs would be gigabytes: at most two batches (and one) wait decoded."""

    class Watching(StubDetector):
        decoded = detected = most_ahead = 0
        lock = threading.Lock()

        def prepare(self, image_rgb: Any) -> Any:
            with self.lock:
                self.decoded += 1
                self.most_ahead = max(self.most_ahead, self.decoded - self.detected)
            return image_rgb

        def detect_prepared(self, batch: Sequence[Any]) -> list[Detections]:
            wait_until(lambda: self.most_ahead > 2)  # decoding gets ahead while the detector works
            time.sleep(0.02)  # and has the time to get too far
            found = super().detect_prepared(batch)
            with self.lock:
                self.detected += len(batch)
            return found

    detector = Watching()
    labeler(detector, decode_threads=4).label("000000", [item(i, image_bytes(i)) for i in range(40)])
    assert detector.decoded == 40
    assert 2 < detector.most_ahead <= 2 * 2 + 2


def test_one_forward_runs_at_a_time_though_units_overlap() -> None:
    class Exclusive(StubDetector):
        inside = 0
        most = 0

        def detect_prepared(self, batch: Sequence[Any]) -> list[Detections]:
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.005)
            self.inside -= 1
            return super().detect_prepared(batch)

    detector = Exclusive()
    shared = labeler(detector)
    items = [item(i, image_bytes(i)) for i in range(8)]
    threads = [threading.Thread(target=shared.label, args=(f"{n:06d}", items)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert detector.most == 1


def test_a_unit_keeps_the_detector_while_its_images_are_ready() -> None:
    """Units that alternate are all finished late, and a crash costs all of them."""

    class Recording(StubDetector):
        def __init__(self) -> None:
            super().__init__()
            self.widths: list[int] = []

        def detect_prepared(self, batch: Sequence[Any]) -> list[Detections]:
            time.sleep(0.01)
            self.widths += [pixels.shape[1] for pixels in batch]
            return super().detect_prepared(batch)

    detector = Recording()
    shared = labeler(detector, images_per_batch=1, decode_threads=0)  # so the next image is always ready
    units = [[item(i, image_bytes(i, width=width)) for i in range(20)] for width in (40, 50)]
    threads = [threading.Thread(target=shared.label, args=(f"{n:06d}", unit)) for n, unit in enumerate(units)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    switches = sum(a != b for a, b in zip(detector.widths, detector.widths[1:], strict=False))
    assert len(detector.widths) == 40
    assert switches == 1


def test_a_detector_that_raises_frees_the_way_for_the_next_unit() -> None:
    class Broken(StubDetector):
        def detect_prepared(self, batch: Sequence[Any]) -> list[Detections]:
            raise RuntimeError("broken")

    shared = labeler(Broken())
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            shared.label("000000", [item(0, image_bytes(0))])


class Drafting(StubDetector):
    """Resizes to 100 x 75, and finds one box: the right lower quarter, in the frame it is given."""

    def least_shape(self, height: int, width: int) -> tuple[int, int]:
        return 75, 100

    def prepare(self, image_rgb: Any, full_size: tuple[int, int] | None = None) -> Any:
        return image_rgb, full_size or image_rgb.shape[:2]

    def detect_prepared(self, batch: Sequence[Any]) -> list[Detections]:
        self.decoded = [pixels.shape[:2] for pixels, _ in batch]
        return [Detections.of([[w / 2, h / 2, w, h]], [0.9], [1]) for _, (h, w) in batch]


def test_a_large_jpeg_is_drafted_and_its_row_is_about_the_full_image() -> None:
    detector = Drafting()
    data = image_bytes(0, width=801, height=602, format="JPEG")
    (row,), _ = labeler(detector, max_pixels=801 * 602).label("000000", [item(0, data)])
    assert detector.decoded == [(75, 100)]
    assert (row.width, row.height) == (801, 602)
    assert row.detections.boxes.tolist() == [[400.5, 301, 801, 602]]
    (small,), _ = labeler(detector).label("000000", [item(0, image_bytes(0, format="JPEG"))])
    assert (small.width, small.height, detector.decoded) == (40, 30, [(30, 40)])
    (limited,), _ = labeler(detector, max_pixels=400_000).label("000000", [item(0, data)])
    assert limited.status == "too_large"


def test_the_same_bytes_give_the_same_row() -> None:
    data = image_bytes(1, format="JPEG")
    (first,), _ = labeler().label("000000", [item(0, data)])
    (second,), _ = labeler().label("000000", [item(0, data)])
    assert (first.digest, first.phash) == (second.digest, second.phash)
    assert np.array_equal(first.detections.boxes, second.detections.boxes)


def test_images_of_one_shape_are_put_together_and_rows_stay_in_item_order() -> None:
    class Recording(StubDetector):
        def __init__(self) -> None:
            super().__init__()
            self.batches: list[list[int]] = []

        def detect_prepared(self, batch: Sequence[Any]) -> list[Detections]:
            self.batches.append([pixels.shape[1] for pixels in batch])
            return super().detect_prepared(batch)

    detector = Recording()
    items = [item(i, image_bytes(i, width=(40, 50, 60)[i % 3])) for i in range(12)]
    rows, _ = labeler(detector, images_per_batch=4).label("000000", items)
    assert sorted(detector.batches) == [[40] * 4, [50] * 4, [60] * 4]
    assert [row.index for row in rows] == list(range(12))
    assert [row.width for row in rows] == [40, 50, 60] * 4
    assert [row.detections.boxes[0, 2] for row in rows] == [20, 25, 30] * 4


def test_what_waits_for_its_like_takes_a_quarter_of_what_may_be_decoded_at_once() -> None:
    """A worker has three units at a time, and each has images that wait."""
    detector, each = CountingImages(), 30 * 40 * 3
    items = [item(i, image_bytes(i, width=40, height=(30, 31)[i % 2])) for i in range(16)]
    rows, _ = labeler(detector, images_per_batch=8).label("000000", items)
    assert detector.images == [8, 8]
    detector.images.clear()
    fewer, _ = labeler(detector, images_per_batch=8, decode_bytes=4 * 4 * each).label("000000", items)
    assert max(detector.images) <= 4  # that wait with the others
    assert sum(detector.images) == 16
    assert [row.detections.scores.tolist() for row in fewer] == [row.detections.scores.tolist() for row in rows]


class CountingImages(StubDetector):
    def __init__(self) -> None:
        super().__init__()
        self.images: list[int] = []

    def detect_prepared(self, batch: Sequence[Any]) -> list[Any]:
        self.images.append(len(batch))
        return super().detect_prepared(batch)


def test_a_gpu_detector_says_how_many_images_are_worth_a_batch_and_a_cpu_takes_one() -> None:
    class Gpu(StubDetector):
        images_per_forward = 16

        @property
        def description(self) -> dict[str, str]:
            return {"device": "NVIDIA"}

    assert UnitLabeler(StubDetector(), decode_threads=0).images_per_batch == 1
    gpu = Gpu()
    for per_forward, expected in ((1, 1), (4, 8), (16, 16), (64, 32)):
        gpu.images_per_forward = per_forward
        assert UnitLabeler(gpu, decode_threads=0).images_per_batch == expected
    assert UnitLabeler(gpu, decode_threads=0, images_per_batch=3).images_per_batch == 3


def test_rows_are_the_same_with_the_fast_jpeg_decoder_and_without_and_the_file_says_which_it_was() -> None:
    files = [*list(plain_jpegs().values())[::7], *other_jpegs().values()]
    items = [item(number, data) for number, data in enumerate(files)]
    alone, fast = labeler(), labeler(fast_jpeg=choose_fast_jpeg("auto"))
    found, expected = (rows_to_table(each.label("000000", items)[0], ()) for each in (fast, alone))
    assert found.equals(expected)
    assert alone.description["jpeg_decoder"].startswith("pillow ")
    assert fast.description["jpeg_decoder"].startswith("simplejpeg ")
    assert fast.in_turn().description == fast.description


def test_the_fast_jpeg_decoder_is_the_one_that_decodes() -> None:
    counting = Counting()
    labeler(fast_jpeg=counting).label("000000", [item(0, plain_jpegs()["turned 6, large"])])
    assert counting.decoded == 1
