"""CUDA graphs without a GPU: what is recorded and when, and that nothing in a forward keeps it from being recorded."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from labeler import checkpoints
from labeler.detectors import GroundingDino
from labeler.detectors.graphs import Recorded, Trial, try_out
from labeler.detectors.grounding_dino.fast import FastForward
from labeler.detectors.grounding_dino.network import ChunkNetwork, ChunkText
from labeler.detectors.grounding_dino.scoring import phrase_table
from labeler.detectors.grounding_dino.scratch import Size, create_checkpoint
from labeler.detectors.grounding_dino.split_forward import TextFeatures
from labeler.detectors.network import Setup
from labeler.detectors.passes import Passes
from labeler.detectors.scoring import Scorer
from tests.detector_parts import WORDS, assert_same, photo, three_chunks


def doubled(pixels: torch.Tensor) -> torch.Tensor | None:
    return pixels * 2 if pixels.shape[0] else None


class Recorder:
    """Records like a GPU does: one output for each shape, which each replay writes anew."""

    def __init__(self, fails: type[Exception] | None = None) -> None:
        self.recorded: list[tuple[int, ...]] = []
        self.fails = fails

    def __call__(self, forward, pixels):
        self.recorded.append(tuple(pixels.shape))
        if self.fails:
            raise self.fails("operation not permitted when stream is capturing\nand more")
        out = forward(pixels)

        def replay(pixels):
            return out.copy_(forward(pixels))

        return replay


def test_a_shape_is_recorded_when_it_has_come_three_times_and_replayed_from_then_on():
    record = Recorder()
    passes = Recorded(doubled, record, after=3)
    for number in range(6):
        pixels = torch.full((1, 2), float(number))
        assert torch.equal(passes(pixels), pixels * 2)
        assert passes.replayed == max(0, number - 2)
    assert record.recorded == [(1, 2)]
    assert torch.equal(passes(torch.ones(3, 2)), torch.full((3, 2), 2.0))
    assert record.recorded == [(1, 2)]


def test_an_image_that_has_to_be_padded_is_not_recorded(tmp_path):
    folder = create_checkpoint(tmp_path, words=WORDS, size=Size(backbone="convnext", queries=8), redraw=True)
    detector, record = GroundingDino(folder, ["cat"], threads=1, engine="fast"), Recorder()
    detector._recorded = Recorded(detector._passes, record, after=1)
    detector.detect([photo(0, 36, 1200)])
    assert record.recorded == []
    detector.detect([photo(0)])
    assert len(record.recorded) == 1


def test_the_first_shapes_that_come_often_are_recorded_and_stay():
    """To make room for each other, shapes that come in turns would be recorded every time and never replayed."""
    record = Recorder()
    passes = Recorded(doubled, record, after=2, most=2)
    for width in [1, 2, 3] * 10:
        assert torch.equal(passes(torch.ones(1, width)), torch.full((1, width), 2.0))
    assert record.recorded == [(1, 1), (1, 2)]
    assert passes.replayed == 16


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_what_cannot_be_recorded_runs_on_unrecorded(error):
    record = Recorder(error)
    passes = Recorded(doubled, record, after=1)
    for _ in range(3):
        assert torch.equal(passes(torch.ones(1, 1)), torch.full((1, 1), 2.0))
    assert len(record.recorded) == 1
    assert passes.problem == f"{error.__name__}: operation not permitted when stream is capturing"


def test_what_gives_nothing_is_not_recorded_and_a_batch_that_changed_is_forgotten():
    record = Recorder()
    passes = Recorded(doubled, record, after=1)
    assert passes(torch.ones(0, 1)) is None
    assert not record.recorded
    passes(torch.ones(1, 1))
    assert passes.forget()
    assert not passes.forget()
    passes(torch.ones(1, 1))
    assert record.recorded == [(1, 1), (1, 1)]


class Clock:
    """Goes on by what was run since it was read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("launching", "replaying", "error", "passed", "words"),
    [
        (3.0, 2.0, 0.0, True, "1.50 times as fast on one picture, 100.0% of its candidates equal"),
        (2.0, 2.0, 0.0, False, "1.00 times as fast on one picture, 100.0% of its candidates equal"),
        (3.0, 1.0, 0.1, False, "3.00 times as fast on one picture, 75.0% of its candidates equal"),
    ],
)
def test_a_trial_says_what_is_faster_and_whether_it_is_equal(launching, replaying, error, passed, words):
    clock = Clock()

    def forward(pixels):
        clock.now += launching
        return torch.ones(1, 2, 4, 6)

    def record(forward, pixels):
        out = forward(pixels)
        out[0, 0, :2] += error

        def replay(pixels):
            clock.now += replaying
            return out

        return replay

    trial = try_out(forward, record, torch.zeros(1, 3, 4, 3), clock)
    assert str(trial) == words
    assert trial.passed == passed


def test_a_recording_that_always_gives_the_first_result_is_not_equal():
    """As an empty one does: it was made of this batch, so that on this batch it comes out right."""

    def forward(pixels):
        return pixels.float().mean((1, 2)).view(1, 1, 1, 3).expand(1, 1, 4, 3) + torch.arange(3)

    def record(forward, pixels):
        rows = forward(pixels[:, :, :2])
        return lambda pixels: rows

    pixels = torch.rand(1, 3, 4, 3)
    assert try_out(lambda pixels: forward(pixels[:, :, :2]), record, pixels, Clock()).equal == 0.0


def test_candidates_that_are_not_finite_both_times_are_equal():
    def forward(pixels):
        return torch.full((1, 1, 2, 6), float("nan"))

    pixels = torch.zeros(1, 2, 2, 3)
    assert try_out(forward, lambda forward, pixels: forward, pixels, Clock()).equal == 1.0
    finite = torch.zeros(1, 1, 2, 6)
    assert try_out(forward, lambda forward, pixels: lambda pixels: finite, pixels, Clock()).equal == 0.0


class OnTheDevice(TorchDispatchMode):
    """Refuses tensors of the host: copies of them would be recorded with what they held at the time."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        hosted = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and not leaf.is_meta]
        numbers = all(leaf.dim() == 0 for leaf in hosted)  # which a kernel takes along by value
        assert numbers, f"{function} reads the host's memory"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["original", "mm"])
@pytest.mark.parametrize("assignment", ["argmax", "flattened"])
@pytest.mark.parametrize("score", ["mean", "max"])
def test_a_forward_neither_waits_for_the_device_nor_reads_the_host(tmp_path, monkeypatch, kind, assignment, score):
    """On torch's "meta" device there are no values: what asks for one, or for a shape that depends on one, fails."""
    folder = create_checkpoint(tmp_path, words=WORDS, kind=kind, redraw=True)
    checkpoint = checkpoints.resolve(folder)
    monkeypatch.setenv("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")
    model = getattr(transformers, checkpoint.architecture).from_pretrained(folder).eval().to("meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which knows no "meta"
    prompts = three_chunks(folder)
    forward = FastForward(model)
    assert forward.device.type == "meta"
    tokens = 32
    with torch.device("meta"):
        masks = torch.empty(3, tokens, tokens, dtype=torch.bool)
        ids = torch.empty(3, tokens, dtype=torch.long)
        text = TextFeatures(torch.empty(3, tokens, 32), masks[:, 0], masks, ids)
        table = phrase_table(prompts, tokens, forward.device, score=score)
    network = ChunkNetwork(model, prompts, Setup("tiny", checkpoint.rule, None, score=score))
    network.forward = forward
    scorer = Scorer(prompts, forward.device, assignment=assignment, candidates=20)
    passes = Passes(network, ChunkText(text, table), scorer, checkpoint.rule, passes=3, pairs_per_batch=4)
    pixels = torch.empty(2, 128, 160, 3, dtype=torch.uint8, device="meta")
    with torch.inference_mode():
        passes(pixels)  # what is kept for a shape is made now
        kept = passes.kept
        with OnTheDevice():
            rows = passes(pixels)
    assert rows.shape == (2, 3, 20, 6)
    levels, others = passes.kept
    assert levels is kept[0]
    assert {name for name, _ in others} >= {"axes"}
    for name, tensors in others.items():
        assert tensors is kept[1][name], name


@pytest.fixture(scope="module")
def mm_folder(tmp_path_factory):
    return create_checkpoint(tmp_path_factory.mktemp("mm"), words=WORDS, kind="mm", redraw=True)


def test_a_detector_that_replays_gives_the_same(mm_folder):
    prompts = three_chunks(mm_folder)
    exact, detector = (GroundingDino(mm_folder, prompts, threads=1, pairs_per_batch=3) for _ in range(2))
    record = Recorder()
    detector._recorded = Recorded(detector._passes, record, after=2)
    images = [photo(seed) for seed in range(5)] + [photo(9, 60, 120)]
    for one, image in enumerate(images):  # one by one: a copy on the CPU is the output itself
        assert_same(detector.detect([image])[0], exact.detect([image])[0])
        assert detector._recorded.replayed == max(0, min(one, 4) - 1)
    assert record.recorded == [(1, 128, 170, 3)]


def test_memory_that_runs_out_drops_the_recordings_before_it_halves_the_batch(mm_folder):
    """They hold the memory of a second forward: even a batch of one may run without them."""
    detector = GroundingDino(mm_folder, ["cat", "house"], threads=1, pairs_per_batch=1)
    exact = detector.detect([photo(0)])[0]
    forward, used = detector.network.forward.detect, []

    def detect(image, text):
        if detector._recorded and used:
            raise torch.OutOfMemoryError("CUDA out of memory")
        used.append(1)
        return forward(image, text)

    detector.network.forward.detect = detect
    detector._recorded = Recorded(detector._passes, Recorder(), after=9)
    detector._graphs = f"used: {Trial(2, 1)}"
    assert_same(detector.detect([photo(0)])[0], exact)
    assert_same(detector.detect([photo(0)])[0], exact)
    assert detector.pairs_per_batch == 1
    assert detector.description["cuda_graphs"] == "given up: the GPU's memory ran out"
    assert "memory" not in detector.description


def test_without_a_gpu_there_are_none_and_the_files_say_so(mm_folder):
    detector = GroundingDino(mm_folder, ["cat"], threads=1, cuda_graphs=True)
    assert detector.description["cuda_graphs"] == "not used: they are for the fast engine on a GPU"
    assert "cuda_graphs" not in GroundingDino(mm_folder, ["cat"], threads=1).description


def test_given_up_graphs_are_named(mm_folder):
    detector = GroundingDino(mm_folder, ["cat"], threads=1)
    detector._recorded, detector._graphs = (
        Recorded(detector._passes, Recorder(RuntimeError), after=1),
        f"used: {Trial(2, 1)}",
    )
    assert detector.description["cuda_graphs"].startswith("used: 2.00 times as fast")
    detector.detect([photo(0)])
    words = "given up: RuntimeError: operation not permitted when stream is capturing"
    assert detector.description["cuda_graphs"] == words
