"""Memory that threads share, and what the images that are decoded at the same time really take."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as pillow

from labeler import images
from labeler.byte_budget import ByteBudget
from labeler.labeling.detector import UnitDetector
from labeler.labeling.unit import UnitLabeler
from labeler.labels.detections import Detections
from labeler.shards import Item
from tests.image_parts import encoded
from tests.peak_memory import MIB, measure

SIDE = 3000  # pixels; 146 MiB as WebP
BUDGET = 320 * MIB  # of two such
IMAGES = 12
KEPT = 8 * 16 * MIB  # by the C library: of Pillow's blocks of 16 MiB, in the arenas of eight threads


def test_leases_are_given_in_the_order_they_are_asked_for_and_never_beyond_the_budget() -> None:
    budget, started, order = ByteBudget(100), threading.Event(), list[int]()
    ends = [threading.Event() for _ in range(4)]

    def work(number: int, size: int) -> None:
        with budget.lease() as take:
            take(size)
            order.append(number)
            started.set()
            ends[number].wait()

    with ThreadPoolExecutor(4) as pool:
        done = []
        for number, size in enumerate((60, 50, 40, 30)):  # 40 would fit beside 60, but 50 came before
            done.append(pool.submit(work, number, size))
            while len(budget._waiting) + len(order) <= number:
                started.wait(0.001)
        assert order == [0]
        ends[0].set()
        done[0].result()
        started.clear()
        while len(order) < 3:
            started.wait(0.001)
        assert order == [0, 1, 2]  # 90 of 100: the last has to wait
        for end in ends:
            end.set()
    assert order == [0, 1, 2, 3]
    assert budget._leased == 0


def test_what_is_larger_than_the_budget_is_let_through_alone() -> None:
    budget = ByteBudget(100)
    together: list[int] = []
    most: list[int] = []

    def work(size: int) -> None:
        with budget.lease() as take:
            take(size)
            together.append(size)
            most.append(sum(together))
            together.remove(size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [500, 10, 500, 90, 500, 20] * 50))
    assert len(most) == 300
    assert all(size <= 100 or size == 500 for size in most)


def test_an_error_gives_the_bytes_back_and_a_second_take_is_nothing() -> None:
    budget = ByteBudget(100)

    def fail() -> None:
        with budget.lease() as take:
            take(100)
            take(100)
            raise ValueError

    for _ in range(3):
        with pytest.raises(ValueError):  # noqa: PT011 - any of them
            fail()
    with budget.lease():
        pass
    assert budget._leased == 0


def gradient() -> pillow.Image:
    ramp = np.add.outer(np.arange(SIDE), np.arange(SIDE))
    return pillow.fromarray(np.stack([ramp, ramp // 2, 255 - ramp], 2).astype(np.uint8))


ENCODINGS: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: encoded(gradient(), "JPEG"),
    "progressive JPEG of four inks": lambda: encoded(gradient().convert("CMYK"), "JPEG", progressive=True),
    "PNG": lambda: encoded(gradient(), "PNG", compress_level=1),
    "WebP": lambda: encoded(gradient(), "WEBP", method=0),
    "lossless WebP": lambda: encoded(gradient(), "WEBP", method=0, lossless=True, quality=0),
    "float TIFF": lambda: encoded(pillow.fromarray(np.asarray(gradient().convert("L"), np.float32)), "TIFF"),
    "integer TIFF": lambda: encoded(pillow.fromarray(np.asarray(gradient().convert("L"), np.int32)), "TIFF"),
    "AVIF": lambda: encoded(gradient(), "AVIF", speed=10),
}


class Small(UnitDetector):
    """A detector that keeps nothing of an image."""

    @property
    def description(self) -> dict[str, str]:
        return {"device": "cpu"}

    def prepare(self, image_rgb: Any) -> Any:
        return np.asarray(pillow.fromarray(image_rgb).resize((40, 40)))

    def detect_prepared(self, batch: Sequence[Any]) -> list[Detections]:
        return [Detections.empty() for _ in batch]


def labeling(path: str, count: str, budget: str) -> Callable[[], object]:
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        images.decode(encoded(pillow.new("RGB", (40, 40)), format))  # what is loaded once
    data = Path(path).read_bytes()
    items = [Item(f"{index}", index, "u", None, None, data) for index in range(int(count))]
    labeler = UnitLabeler(Small(), decode_threads=8, images_per_batch=8, decode_bytes=int(budget))
    return lambda: [row.status for row in labeler.label("000000", items)[0]]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "WebP" else pytest.mark.slow) for name in ENCODINGS]
)  # WebP takes most
def test_an_image_takes_no_more_than_is_reserved_for_it(name: str, tmp_path: Path) -> None:
    data, reserved = ENCODINGS[name](), list[int]()
    images.decode(data, reserve=reserved.append)
    (tmp_path / "image").write_bytes(data)
    peak = measure("tests.test_byte_budget:labeling", str(tmp_path / "image"), "1", str(1 << 40))
    assert peak.result == ["empty"]
    assert max(reserved) == reserved[0]
    assert 0.7 * reserved[0] < peak.above < reserved[0] + 4 * MIB, f"{peak.above / SIDE / SIDE:.2f} bytes per pixel"


def test_eight_threads_decode_large_images_within_the_budget(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(ENCODINGS["WebP"]())
    peak = measure("tests.test_byte_budget:labeling", str(tmp_path / "image"), str(IMAGES), str(BUDGET))
    assert peak.result == ["empty"] * IMAGES
    assert peak.above < BUDGET + KEPT, f"{peak.above / MIB:.0f} MiB"


def test_an_image_of_hundreds_of_megapixels_is_refused_before_anything_is_reserved() -> None:
    buffer, reserved = io.BytesIO(), list[int]()
    pillow.new("L", (SIDE, SIDE)).save(buffer, "WEBP", method=0)
    with pytest.raises(images.ImageError, match="too large"):
        images.decode(buffer.getvalue(), max_pixels=1000, reserve=reserved.append)
    assert reserved == []
