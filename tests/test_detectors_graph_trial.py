"""The startup benchmark of CUDA graphs: its rule, on a simulated device and clock."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from labeler.detectors import GroundingDino, batched, graph_trial
from labeler.detectors.graph_trial import choose_graphs, every_size, pictures, try_out
from labeler.detectors.graphs import GraphRecorder, Recorded
from tests.detector_parts import assert_same, photo
from tests.fake_graphs import FakeCapture

PIXELS = torch.arange(36.0).view(1, 2, 6, 3)
Seconds = Callable[[int], float]


@pytest.fixture
def said(monkeypatch) -> list[tuple[int, str]]:
    lines: list[tuple[int, str]] = []
    monkeypatch.setattr(graph_trial.log, "log", lambda level, text, *values: lines.append((level, text % values)))
    return lines


class Device:
    """Launching and replaying take seconds that depend on the number of images alone."""

    def __init__(self, launched: Seconds, replayed: Seconds, off: Callable[[torch.Tensor], torch.Tensor] = torch.clone):
        self.now, self.tried = 0.0, list[int]()
        self._launched, self._replayed, self._off = launched, replayed, off

    def clock(self) -> float:
        return self.now

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.now += self._launched(len(pixels))
        return pixels[:, :1, :, :].clone()

    def record(self, forward: object, pixels: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        self.tried.append(len(pixels))

        def replay(given: torch.Tensor) -> torch.Tensor:
            self.now += self._replayed(len(pixels))
            return self._off(given[:, :1, :, :])

        return replay

    def choose(self, *, most: int = 8, always: bool = False, until: float = 1e9) -> tuple[Recorded | None, str]:
        return choose_graphs(self.forward, self.record, PIXELS, most=most, always=always, clock=self.clock, until=until)


def host_or_device(launching: float, work: float) -> Seconds:
    """The host launches while the device works: the slower of both is what it takes."""
    return lambda images: max(launching, work * images)


def one_after_the_other(launching: float, work: float) -> Seconds:
    return lambda images: launching + work * images


@pytest.mark.parametrize(
    ("launched", "used", "tried"),
    [
        (host_or_device(10, 1), every_size((1, 2, 4, 8)), [1, 2, 4, 8]),
        (
            host_or_device(6, 1),
            {1: 1, 2: 2, 3: 4, 4: 4},
            [1, 2, 4, 8],
        ),  # eight take the device longer than launching five
        (host_or_device(4.1, 1), {1: 1, 2: 2}, [1, 2, 4]),
        (one_after_the_other(0.5, 1), {1: 1, 2: 2, 4: 4, 8: 8}, [1, 2, 4, 8]),  # not for three: that is less work
        (one_after_the_other(0.02, 1), {}, [1]),
        (host_or_device(0, 1), {}, [1]),
    ],
)
def test_a_number_of_images_is_replayed_where_that_is_faster_than_launching_as_many(launched, used, tried):
    device = Device(launched, lambda images: 1.0 * images)
    recorded, words = device.choose()
    assert (recorded._sizes if recorded else {}) == used
    assert device.tried == tried
    assert words.startswith(f"used for {', '.join(map(str, used))} image" if used else "not used: images of a shape: ")
    assert f"1 in 1000.0 ms where launching takes {1000 * launched(1):.1f} ms" in words
    assert words.endswith("medians of 5 alternately, 100.0% of the candidates equal")


def test_no_number_of_images_is_ever_slower_than_launched():
    rng = random.Random(0)
    for _ in range(200):
        launched = rng.choice([host_or_device, one_after_the_other])(rng.uniform(0, 12), rng.uniform(0.5, 2))
        replayed = one_after_the_other(rng.uniform(0, 3), rng.uniform(0.5, 2))
        recorded, _ = Device(launched, replayed).choose(most=rng.choice([1, 3, 5, 8, 32]))
        for images, size in (recorded._sizes if recorded else {}).items():
            assert images <= size
            assert 1.03 * replayed(size) <= launched(images) + 1e-9


def test_one_slow_round_of_five_decides_nothing():
    slow = iter([1.0, 9.0])  # one to compare, and the first of five
    recorded, words = Device(host_or_device(2, 1), lambda images: next(slow, 1.0)).choose(most=1)
    assert recorded is not None
    assert "1 in 1000.0 ms where launching takes 2000.0 ms" in words


def test_no_further_size_is_tried_when_the_time_is_over_and_one_always_is():
    device = Device(host_or_device(10, 1), lambda images: 1.0 * images)
    recorded, _ = device.choose(until=100.0)
    assert device.tried == [1, 2]
    assert recorded._sizes == {1: 1, 2: 2}
    device = Device(host_or_device(10, 1), lambda images: 1.0 * images)
    recorded, words = device.choose(until=0.0)
    assert device.tried == [1]
    assert "medians of 1 alternately" in words
    assert recorded is not None


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize(
    "off",
    [
        lambda rows: rows + 0.1,
        lambda rows: rows.flip(2),  # as a recording that does nothing: rows of the images before they were mirrored
        lambda rows: torch.full_like(rows, float("nan")),
    ],
)
def test_what_does_not_come_out_equal_is_not_used_however_fast_and_said(off, always, said):
    recorded, words = Device(host_or_device(10, 1), lambda images: 0.1, off).choose(always=always)
    assert recorded is None
    assert words.startswith("not used: ")
    assert words.endswith("0.0% of the candidates equal")
    assert said == [(logging.WARNING, f"CUDA graphs are {words}")]


def test_results_of_the_wrong_image_are_not_equal():
    recorded, words = Device(host_or_device(10, 1), lambda images: 0.1, lambda rows: rows.flip(0)).choose(most=2)
    assert recorded is None
    assert words.endswith("0.0% of the candidates equal")
    assert len({tuple(picture.flatten().tolist()) for picture in pictures(PIXELS, 3)}) == 3


def test_candidates_that_are_not_finite_both_times_are_equal():
    def forward(pixels):
        return torch.full((1, 1, 2, 6), float("nan"))

    def trial(record):
        return try_out(forward, record, PIXELS, (1,), Device(len, len).clock, 1e9)

    assert trial(lambda forward, pixels: forward).equal == 1.0
    assert trial(lambda forward, pixels: lambda pixels: torch.zeros(1, 1, 2, 6)).equal == 0.0


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_what_cannot_be_recorded_is_launched_and_one_line_says_why(error, always, said):
    device = Device(host_or_device(10, 1), lambda images: 1.0)
    device.record = GraphRecorder(lambda: None, FakeCapture(error("operation not permitted\nand more")))
    recorded, words = device.choose(always=always)
    assert recorded is None
    assert words == f"not used: {error.__name__}: operation not permitted"
    assert said == [(logging.WARNING, f"CUDA graphs are {words}")]


def test_a_size_that_cannot_be_recorded_leaves_the_smaller_ones_their_gain(said):
    device = Device(host_or_device(10, 1), lambda images: 1.0 * images)
    record = device.record

    def no_more_than_two(forward, pixels):
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return record(forward, pixels)

    device.record = no_more_than_two
    recorded, words = device.choose()
    assert recorded._sizes == {1: 1, 2: 2}
    assert words.startswith("used for 1, 2 images: ")
    assert said[0] == (logging.INFO, "CUDA graphs of 4 images cannot be recorded: OutOfMemoryError: CUDA out of memory")


def test_what_is_asked_for_is_used_without_asking_for_the_time(said):
    device = Device(host_or_device(0.1, 0.1), lambda images: 5.0)
    recorded, words = device.choose(most=3, always=True)
    assert recorded._sizes == {1: 1, 2: 2, 3: 3}
    assert words == "used for 1, 2, 3 images: asked for; 100.0% of the candidates equal"
    assert said == [(logging.INFO, f"CUDA graphs are {words}")]


class OnAGpu:
    """A detector's choice as on a GPU, whose clock advances by a second per launched forward pass."""

    def __init__(self, folder, monkeypatch, **options):
        self.detector = GroundingDino(folder, ["cat", "dog"], threads=1, pairs_per_batch=3, **options)
        self.capture, self.now = FakeCapture(), 0.0
        monkeypatch.setattr(batched, "GraphRecorder", partial(GraphRecorder, capture=self.capture))
        monkeypatch.setattr(self.detector, "device", SimpleNamespace(type="cuda"))
        encode = self.detector.network.forward.encode_image
        self.shapes: list[tuple[int, ...]] = []

        def counted(pixels):
            self.now += 1.0
            self.shapes.append(tuple(pixels.shape))
            return encode(pixels)

        monkeypatch.setattr(self.detector.network.forward, "encode_image", counted)

    def choose(self) -> tuple[Recorded | None, str]:
        return self.detector._choose_graphs(lambda: self.now, 12.0)


def test_a_detector_replays_what_its_trial_found_faster_and_finds_the_same(checkpoint, monkeypatch):
    gpu = OnAGpu(checkpoint, monkeypatch, cuda_graphs="auto")
    recorded, words = gpu.choose()
    assert words.startswith(
        "used for 1, 2 images: images of a shape: 1 in 0.0 ms where launching takes 1000.0 ms; 2 in "
    )
    assert words.endswith("100.0% of the candidates equal")  # for three the time was over
    short, long = gpu.detector.preprocessing.rule.size
    assert gpu.shapes[0] == (1, 3, short, long), "the largest images there are"
    monkeypatch.undo()
    images = [photo(seed) for seed in range(2)]
    expected = [gpu.detector.detect([image])[0] for image in images]
    gpu.detector._recorded = recorded
    for _ in range(4):
        for image, detections in zip(images, expected, strict=True):
            assert_same(gpu.detector.detect([image])[0], detections)
    assert recorded.replayed == 5
    assert not recorded.problem


def test_a_detector_that_is_told_not_to_replay_tries_nothing_on_a_gpu_either(checkpoint, monkeypatch):
    gpu = OnAGpu(checkpoint, monkeypatch, cuda_graphs=False)
    assert gpu.choose() == (None, "")
    assert gpu.capture.captured == gpu.now == 0


def test_modules_of_transformers_are_not_recorded(checkpoint, monkeypatch):
    for asked, words in (("auto", ""), (True, "not used: they are for the fast engine on a GPU")):
        gpu = OnAGpu(checkpoint, monkeypatch, cuda_graphs=asked, engine="transformers")
        assert gpu.choose() == (None, words)
        assert gpu.capture.captured == 0
