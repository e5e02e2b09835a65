from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import pytest

from labeler.labeling.detector import UnitDetector
from labeler.labeling.forwards import Forwards


@dataclass(frozen=True)
class Image:
    prepared: int


class Device(UnitDetector):
    """Run two images per forward pass, and record when it gets work and when it is waited for."""

    def __init__(self) -> None:
        self.events: list[tuple[str, list[int]]] = []

    def begin(self, batch: Sequence[int]) -> Iterator[tuple[list[int], Callable[[], list[str]]]]:
        for start in range(0, len(batch), 2):
            places = list(range(start, min(start + 2, len(batch))))
            images = [batch[place] for place in places]
            self.events.append(("begun", images))
            yield places, lambda images=images: self.wait(images)  # type: ignore[misc]

    def wait(self, images: list[int]) -> list[str]:
        self.events.append(("waited", images))
        return [f"result {image}" for image in images]


def batch(*numbers: int) -> list[Image]:
    return [Image(number) for number in numbers]


def test_one_forward_is_under_way_while_the_one_before_is_waited_for_also_across_batches() -> None:
    device = Device()
    forwards = Forwards(device, threading.Lock())
    found = [*forwards.begin(batch(0, 1, 2)), *forwards.begin(batch(3, 4)), *forwards.rest()]
    assert found == [(Image(n), f"result {n}") for n in range(5)]
    assert device.events == [
        ("begun", [0, 1]),
        ("begun", [2]),
        ("waited", [0, 1]),
        ("begun", [3, 4]),
        ("waited", [2]),
        ("waited", [3, 4]),
    ]
    assert list(forwards.rest()) == []


def test_a_detector_that_cannot_begin_is_asked_for_all_at_once() -> None:
    class Plain(UnitDetector):
        def detect_prepared(self, prepared: Sequence[int]) -> list[int]:
            return [-number for number in prepared]

    forwards = Forwards(Plain(), threading.Lock())
    found = [*forwards.begin(batch(1, 2)), *forwards.begin(batch(3)), *forwards.rest()]
    assert found == [(Image(n), -n) for n in (1, 2, 3)]


def test_without_a_detector_images_come_with_their_results() -> None:
    forwards = Forwards(None, threading.Lock())
    assert [*forwards.begin(batch(7, 8)), *forwards.rest()] == [(Image(7), 7), (Image(8), 8)]


def test_the_detector_is_held_from_the_first_batch_until_closed() -> None:
    lock = threading.Lock()
    forwards = Forwards(Device(), lock)
    assert not lock.locked()
    list(forwards.begin(batch(0)))
    list(forwards.begin(batch(1)))
    assert lock.locked()
    list(forwards.rest())
    forwards.close()
    forwards.close()
    assert not lock.locked()


def test_what_the_device_raises_is_raised_to_whoever_waits() -> None:
    class Broken(Device):
        def wait(self, images: list[int]) -> list[str]:
            raise RuntimeError("broken")

    forwards = Forwards(Broken(), threading.Lock())
    assert list(forwards.begin(batch(0))) == []
    with pytest.raises(RuntimeError, match="broken"):
        list(forwards.rest())
    forwards.close()


def test_a_unit_is_given_up_before_its_first_image_where_it_may_not_begin_and_lets_the_next_one_on() -> None:
    device, lock, asked = Device(), threading.Lock(), []

    def refuse() -> None:
        asked.append(lock.locked())
        if len(asked) == 2:
            raise RuntimeError("the node drains")

    first = Forwards(device, lock, refuse)
    assert len([*first.begin(batch(0)), *first.begin(batch(1)), *first.rest()]) == 2
    first.close()
    second = Forwards(device, lock, refuse)
    with pytest.raises(RuntimeError), closing(second):
        list(second.begin(batch(2)))
    assert asked == [True, True], "once a unit, while it holds the detector"
    assert not lock.locked()
    assert ("begun", [2]) not in device.events
