"""What a unit's forward passes are counted as, by the lock that gives the detector to one unit at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from labeler import storage
from labeler.labeling.unit import UnitLabeler
from labeler.labels.unit_work import UnitWork
from labeler.shards import Item
from labeler.storage.retries import METER
from tests.inputs import image_bytes
from tests.stub_detector import StubDetector


class ShortOfMemory(StubDetector):
    """Three passes per image, four images per forward pass; the second pass is split in two halves."""

    passes = 3
    images_per_forward = 4
    memory_halvings = 0

    def begin(self, batch: Sequence[Any]) -> Iterator[tuple[range, Any]]:
        for start in range(0, len(batch), self.images_per_forward):
            if start:
                self.memory_halvings, self.images_per_forward = 1, 2
            places = range(start, min(start + self.images_per_forward, len(batch)))
            found = self.detect_prepared([batch[place] for place in places])
            yield places, lambda found=found: found


def items(count: int) -> list[Item]:
    return [Item(f"{i}.png", i, "u", None, None, image_bytes(0)) for i in range(count)]


def test_passes_batches_places_and_halvings_are_those_of_the_unit() -> None:
    labeler = UnitLabeler(ShortOfMemory(), decode_threads=1, images_per_batch=6)
    _, work = labeler.label("000000", items(6))
    assert (work.forwards, work.filled, work.places, work.passes, work.memory_halvings) == (2, 6, 6, 18, 1)
    assert work.bytes_read == 6 * len(image_bytes(0))
    assert work.decode_s > 0
    _, work = labeler.label("000001", items(1))
    assert (work.forwards, work.filled, work.places, work.passes, work.memory_halvings) == (1, 1, 2, 3, 0)
    assert work.batch_fill == 0.5


def test_a_batch_that_is_smaller_than_a_forward_is_full_when_it_is_complete() -> None:
    _, work = UnitLabeler(ShortOfMemory(), decode_threads=1, images_per_batch=2).label("000000", items(2))
    assert (work.places, work.batch_fill) == (2, 1.0)


def test_work_adds_up_and_comes_back_from_a_file() -> None:
    total = UnitWork(read_s=0.5, retries=1)
    total.add(UnitWork(read_s=1.0, passes=3, forwards=1, places=2, filled=1, bytes_read=9, mask_s=0.25))
    written = {key.encode(): value.encode() for key, value in total.to_metadata().items()}
    assert UnitWork.from_metadata(written) == total
    assert total.stage_seconds == {"read": 1.5, "decode": 0.0, "detect": 0.0, "mask": 0.25}


def test_each_second_try_is_counted_by_one_unit() -> None:
    storage.take_retries()
    METER.add(retries=2)
    assert (storage.take_retries(), storage.take_retries()) == (2, 0)
    storage.give_back_retries(2)
    METER.add(retries=1)
    assert storage.take_retries() == 3
