"""Which engine a detector runs on, and the check that decides it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from labeler.detectors import GroundingDino
from labeler.detectors.grounding_dino import engine, engine_check, engine_times
from labeler.detectors.grounding_dino.engine_check import FLOAT32, HALF, EngineCheck, compare
from labeler.detectors.grounding_dino.engine_times import EngineTimes, time_in_turns
from labeler.detectors.grounding_dino.fast import FastForward
from labeler.detectors.grounding_dino.fast.kernels import PLAIN
from labeler.detectors.grounding_dino.scratch import create_checkpoint
from labeler.detectors.grounding_dino.split_forward import SplitForward
from labeler.errors import Refused
from labeler.training.shapes import draw_scene

NAMES = ["red circle", "blue star", "green heart"]


@pytest.fixture(scope="module", params=["original", "mm"])
def folder(request, tmp_path_factory):
    return create_checkpoint(tmp_path_factory.mktemp(request.param), words=NAMES, kind=request.param, redraw=True)


def load(folder, **options) -> GroundingDino:
    return GroundingDino(folder, NAMES, device="cpu", threads=1, score_floor=0.0, **options)


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(engine.log, "warning", lambda text, *values: said.append(text % values))
    return said


def test_the_fast_engine_is_chosen_when_a_picture_comes_out_equal(folder):
    description = load(folder).description
    assert description["engine"] == "fast"
    assert description["engine_check"].startswith("100.0% of ")


def test_both_engines_give_the_same_detections(folder):
    images = [draw_scene(1, index).image for index in range(3)]
    fast, stock = load(folder).detect(images), load(folder, engine="transformers").detect(images)
    for ours, reference in zip(fast, stock, strict=True):
        assert len(ours) == len(reference) > 5
        np.testing.assert_allclose(ours.boxes, reference.boxes, atol=0.01)
        np.testing.assert_allclose(ours.scores, reference.scores, atol=1e-4)
        assert (ours.category_ids == reference.category_ids).all()


def test_the_reference_says_so(folder):
    description = load(folder, engine="transformers").description
    assert description["engine"] == "transformers"
    assert description["engine_check"] == ""


def test_an_engine_that_computes_something_else_is_not_used(folder, monkeypatch, warnings):
    """As on a device whose kernels are wrong: boxes are off by a hundredth."""

    class Wrong(FastForward):
        def detect(self, image, text):
            logits, boxes = super().detect(image, text)
            return logits, boxes + 0.01

    monkeypatch.setattr(engine, "FastForward", Wrong)
    detector = load(folder)
    assert "runs on transformers' own forward pass, which is slower" in warnings[0]
    assert detector.description["engine"] == "transformers"
    assert "the fast engine had 0.0%" in detector.description["engine_check"]
    image = draw_scene(1, 0).image
    expected = load(folder, engine="transformers").detect([image])[0]
    assert np.array_equal(detector.detect([image])[0].boxes, expected.boxes)


def test_half_precision_that_costs_either_engine_as_many_detections_keeps_the_faster_one(tmp_path, warnings):
    """Weights at random let every rounding be seen; going back to transformers' forward would not be more exact."""
    folder = create_checkpoint(tmp_path, words=NAMES, kind="original", redraw=True)
    detector = load(folder, dtype="float16")
    assert detector.description["engine"] == "fast"
    assert "in this precision its own has" in detector.description["engine_check"]
    assert "of the detections that it has in float32: model.dtype=float32 is exact" in warnings[0]


def test_half_precision_hides_no_engine_that_computes_something_else(folder, monkeypatch, warnings):
    class Wrong(FastForward):
        def detect(self, image, text):
            logits, boxes = super().detect(image, text)
            return logits, boxes + 0.02

    monkeypatch.setattr(engine, "FastForward", Wrong)
    assert load(folder, dtype="float16").description["engine"] == "transformers"
    assert "runs on transformers' own forward" in warnings[0]


def broken(values, raw, references, grid):
    raise RuntimeError("Failed to find C compiler\nPlease specify one")


BROKEN = replace(PLAIN, sample=broken)


def test_a_kernel_that_cannot_be_built_here_is_replaced_and_named(folder, monkeypatch, warnings):
    monkeypatch.setattr(engine, "kernels_for", lambda device: (BROKEN, PLAIN))
    detector = load(folder)
    description = detector.description
    assert description["engine"] == "fast"
    assert description["engine_check"].startswith("100.0% of ")
    assert description["engine_check"].endswith("its GPU kernels failed with RuntimeError: Failed to find C compiler")
    (warning,) = warnings
    assert "are slower: its GPU kernels failed with RuntimeError: Failed to find C compiler" in warning
    assert "C compiler (gcc) and keeps them in TRITON_CACHE_DIR" in warning
    image = draw_scene(1, 0).image
    monkeypatch.undo()
    assert np.array_equal(detector.detect([image])[0].boxes, load(folder).detect([image])[0].boxes)


def test_an_engine_that_fails_on_this_device_is_not_used(folder, monkeypatch, warnings):
    monkeypatch.setattr(engine, "kernels_for", lambda device: (BROKEN,))
    assert load(folder).description["engine"] == "transformers"
    assert "slower: the fast engine failed with RuntimeError: Failed to find C compiler" in warnings[0]
    with pytest.raises(Refused, match=r"engine=fast does not run on cpu: .* Failed to find C compiler"):
        load(folder, engine="fast")


def test_a_model_that_is_not_understood_runs_on_transformers(folder, monkeypatch, warnings):
    monkeypatch.setattr(engine, "why_unsupported", lambda model: "its layers are made of cheese")
    assert load(folder).description["engine"] == "transformers"
    assert "made of cheese" in warnings[0]
    with pytest.raises(Refused, match="made of cheese"):
        load(folder, engine="fast")


def test_an_unknown_engine_is_refused(folder):
    with pytest.raises(Refused, match="engine: Input should be 'auto', 'fast' or 'transformers', got 'warp'"):
        load(folder, engine="warp")


def outputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 120, 7, generator=generator)
    return logits, torch.rand(1, 120, 4, generator=generator) * 0.3 + 0.2


ALL = torch.ones(7, dtype=torch.bool)


def test_the_order_of_queries_does_not_matter():
    logits, boxes = outputs()
    order = torch.randperm(120)
    check = compare((logits, boxes), (logits[:, order], boxes[:, order]), ALL, FLOAT32)
    assert check.passed
    assert (check.compared, check.matched) == (120, 1.0)
    assert max(check.box_error, check.score_error) < 1e-6


@pytest.mark.parametrize(
    ("shift", "lift", "tolerance", "passed"),
    [
        (1e-5, 0.0, FLOAT32, True),
        (0.01, 0.0, FLOAT32, False),
        (1e-3, 0.0, HALF, True),
        (0.0, 1e-3, FLOAT32, True),
        (0.0, 0.02, FLOAT32, False),
        (0.0, 0.02, HALF, True),
        (0.0, 0.3, HALF, False),
    ],
)
def test_what_is_within_the_tolerance(shift, lift, tolerance, passed):
    logits, boxes = outputs()
    assert compare((logits, boxes), (logits + lift, boxes + shift), ALL, tolerance).passed is passed


def test_boxes_of_a_pixel_are_compared_by_their_sides():
    logits, boxes = outputs()
    boxes = torch.cat([boxes[..., :2], boxes[..., 2:] * 0.005], -1)  # about a thousandth of the image
    assert compare((logits, boxes), (logits, boxes + 5e-5), ALL, FLOAT32).passed
    assert not compare((logits, boxes), (logits, boxes + 5e-4), ALL, FLOAT32).passed


def test_queries_that_share_a_box_are_told_apart_by_their_tokens():
    logits, boxes = outputs()
    boxes[:, :60], logits[..., 0] = boxes[:, 60:], 9.0  # all have the same best token
    order = torch.randperm(120)
    assert compare((logits, boxes), (logits[:, order], boxes[:, order]), ALL, FLOAT32).matched == 1.0


def test_a_few_swapped_queries_pass_and_many_do_not():
    logits, boxes = outputs()
    other = outputs(1)
    for wrong, passed in ((1, True), (12, False)):
        mixed = torch.cat([other[1][:, :wrong], boxes[:, wrong:]], 1)
        assert compare((logits, boxes), (logits, mixed), ALL, FLOAT32).passed is passed


def test_values_that_are_no_numbers_do_not_pass():
    logits, boxes = outputs()
    check = compare((logits, boxes), (logits * float("nan"), boxes), ALL, HALF)
    assert not check.passed
    assert check.matched == 0


def test_the_picture_is_large_enough_for_every_query(tmp_path):
    size = {"d_model": 32, "queries": 400, "image_size": (128, 224)}
    from labeler.detectors.grounding_dino.scratch import Size

    detector = load(create_checkpoint(tmp_path, words=NAMES, size=Size(**size), redraw=True))
    picture = engine_check._encode_picture(detector.network.forward, detector.preprocessing.rule)
    assert picture.features.shape[1] >= 400
    assert detector.description["engine"] == "fast"


class Clock:
    """Moves on only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, *seconds: float):
        """A way that takes these seconds, one after the other, the last again and again."""
        left = list(seconds)

        def way() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return way


@pytest.mark.parametrize(("fast", "stays"), [(0.10, True), (0.119, True), (0.121, False), (0.30, False)])
def test_the_fast_engine_stays_unless_it_is_a_fifth_slower(fast, stays):
    clock = Clock()
    times = time_in_turns(clock.work(3.0, fast), clock.work(2.0, 0.10), clock)  # the first is warming up
    assert (times.rounds, times.fast_stays) == (5, stays)
    assert times.reference == pytest.approx(0.10)
    assert times.fast == pytest.approx(fast)


def test_one_slow_round_of_five_decides_nothing():
    clock = Clock()
    times = time_in_turns(clock.work(1.0, 0.1, 0.1, 3.0, 0.1), clock.work(1.0, 0.1), clock)
    assert (times.rounds, times.fast_stays) == (5, True)


def test_the_trial_ends_with_the_round_in_which_its_ten_seconds_are_over():
    clock = Clock()
    assert time_in_turns(clock.work(2.0), clock.work(2.0), clock).rounds == 2
    assert time_in_turns(clock.work(30.0), clock.work(30.0), clock).rounds == 1


def test_an_engine_that_is_slower_on_this_gpu_is_not_used_and_both_times_are_kept(folder, monkeypatch, warnings):
    times = EngineTimes(fast=0.2, reference=0.1, rounds=5)
    monkeypatch.setattr(engine, "_times", lambda *_: times)
    description = load(folder).description
    assert description["engine"] == "transformers"
    assert "is slower here: 200.0 ms where transformers' own forward pass takes 100.0 ms" in description["engine_check"]
    assert "runs on transformers' own forward pass: the fast engine is slower here" in warnings[0]
    monkeypatch.setattr(engine, "_times", lambda *_: replace(times, fast=0.05))
    description = load(folder).description
    assert description["engine"] == "fast"
    assert "it takes 50.0 ms where transformers' own forward pass takes 100.0 ms" in description["engine_check"]


def _text_of(detector: GroundingDino):
    return detector.network.forward.encode_text([chunk.input_ids for chunk in detector.prompts.chunks])


def test_both_engines_are_timed_on_the_pictures_that_they_will_see(folder):
    detector = load(folder)
    with torch.inference_mode():
        fast, text = detector.network.forward, _text_of(detector)
        times = engine_times.time_engines(fast, SplitForward(fast.detector), text, detector.preprocessing.rule)
    assert times.rounds >= 1
    assert min(times.fast, times.reference) > 0


def test_a_model_that_differs_from_itself_as_much_is_not_given_up(folder, monkeypatch):
    """If one rounding of the features changes detections, the transformers forward pass is not more exact."""
    detector = load(folder)
    with torch.inference_mode():
        forward, text = detector.network.forward, _text_of(detector)
    asked = []

    def found(expected, detections, tokens, tolerance):
        asked.append(detections)
        return EngineCheck(900, matched[len(asked) - 1], 0.0, 0.0, passed=False)

    monkeypatch.setattr(engine_check, "compare", found)
    with torch.inference_mode():
        for matched, passed in (((0.96, 0.95), True), ((0.90, 0.95), False), ((0.5, 0.5), False), ((0.0, 0.0), False)):
            asked.clear()
            check = engine_check.check_engine(forward, detector.preprocessing.rule, text)
            assert (check.passed, check.theirs) == (passed, matched[1])
    assert not torch.equal(asked[0][1], asked[1][1])
