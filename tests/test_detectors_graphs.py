"""CUDA graphs without a GPU: what is recorded and when, and that a forward pass can be recorded."""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from labeler import checkpoints
from labeler.detectors import GroundingDino
from labeler.detectors.graphs import GraphRecorder, Recorded, filled_up, sizes_up_to
from labeler.detectors.grounding_dino.fast import FastForward
from labeler.detectors.grounding_dino.network import ChunkNetwork, ChunkText
from labeler.detectors.grounding_dino.scoring import phrase_table
from labeler.detectors.grounding_dino.scratch import Size, create_checkpoint
from labeler.detectors.grounding_dino.split_forward import TextFeatures
from labeler.detectors.network import Setup
from labeler.detectors.passes import Passes
from labeler.detectors.scoring import Scorer
from tests.detector_parts import WORDS, assert_same, photo, three_chunks
from tests.fake_graphs import FakeCapture

ALONE = {1: 1}
UP_TO_FOUR = {1: 1, 2: 2, 3: 4, 4: 4}
USED = "used for 1 image: images of a shape: 1 in 1.0 ms where launching takes 2.0 ms"


def doubled(pixels: torch.Tensor) -> torch.Tensor | None:
    return pixels * 2


def doubled_if_any(pixels: torch.Tensor) -> torch.Tensor | None:
    return pixels * 2 if pixels.any() else None


class Recorder:
    """Record like a GPU does: one output per shape, which each replay overwrites."""

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
    passes = Recorded(doubled, record, ALONE, after=3)
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
    detector._recorded = Recorded(detector._passes, record, ALONE, after=1)
    detector.detect([photo(0, 36, 1200)])
    assert record.recorded == []
    detector.detect([photo(0)])
    assert len(record.recorded) == 1


def test_the_first_shapes_that_come_often_are_recorded_and_stay():
    """If they evicted each other, alternating shapes would be recorded every time and never replayed."""
    record = Recorder()
    passes = Recorded(doubled, record, ALONE, after=2, most=2)
    for width in [1, 2, 3] * 10:
        assert torch.equal(passes(torch.ones(1, width)), torch.full((1, width), 2.0))
    assert record.recorded == [(1, 1), (1, 2)]
    assert passes.replayed == 16


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_what_cannot_be_recorded_runs_on_unrecorded(error):
    record = Recorder(error)
    passes = Recorded(doubled, record, ALONE, after=1)
    for _ in range(3):
        assert torch.equal(passes(torch.ones(1, 1)), torch.full((1, 1), 2.0))
    assert len(record.recorded) == 1
    assert passes.problem == f"{error.__name__}: operation not permitted when stream is capturing"


def test_what_gives_nothing_is_not_recorded_and_a_batch_that_changed_is_forgotten():
    record = Recorder()
    passes = Recorded(doubled_if_any, record, ALONE, after=1)
    assert passes(torch.zeros(1, 1)) is None
    assert not record.recorded
    passes(torch.ones(1, 1))
    assert passes.forget()
    assert not passes.forget()
    passes(torch.ones(1, 1))
    assert record.recorded == [(1, 1), (1, 1)]


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (5, (1, 2, 4, 5)), (8, (1, 2, 4, 8)), (32, (1, 2, 4, 8))],
)
def test_no_recording_has_more_images_than_share_a_forward(most, sizes):
    assert sizes_up_to(most) == sizes


@pytest.mark.parametrize(("images", "recorded"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, None)])
def test_a_batch_is_filled_up_to_the_next_size_and_nothing_of_that_comes_out(images, recorded):
    """With the last image, repeated: the fusion takes the maximum of a whole batch, and what an earlier batch left
    there might be what overflows."""
    seen = []

    def forward(pixels):
        seen.append(pixels.clone())
        return pixels * 2

    record = Recorder()
    passes = Recorded(forward, record, UP_TO_FOUR, after=2)
    for turn in range(5):
        pixels = torch.arange(images * 2.0).view(images, 2) + 100 * turn
        assert torch.equal(passes(pixels), pixels * 2)
        assert torch.equal(seen[-1][:images], pixels)
        assert (seen[-1][images:] == pixels[-1]).all()
    assert record.recorded == ([] if recorded is None else [(recorded, 2)])
    assert passes.replayed == (0 if recorded is None else 3)
    assert len(seen[0]) == images, "a batch is not filled up before there is something to gain"


def test_a_full_batch_is_not_copied():
    pixels = torch.ones(4, 2)
    assert filled_up(pixels, 4) is pixels


def test_batches_of_any_number_count_for_the_recording_that_they_would_use():
    record = Recorder()
    passes = Recorded(doubled, record, UP_TO_FOUR, after=3)
    for images in (3, 4, 3, 4):
        passes(torch.ones(images, 2))
    assert record.recorded == [(4, 2)]
    assert passes.replayed == 1


def test_recordings_are_made_as_long_as_there_is_room_for_their_inputs():
    record = Recorder()
    passes = Recorded(doubled, record, UP_TO_FOUR, after=1, most_bytes=4 * (2 + 8))
    for width in (2, 9, 8, 1):
        assert torch.equal(passes(torch.ones(1, width)), torch.full((1, width), 2.0))
    assert record.recorded == [(1, 2), (1, 8)]
    assert passes.forget()
    passes(torch.ones(1, 9))
    assert record.recorded[-1] == (1, 9)


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
    passes = Passes(
        network,
        ChunkText(text, table, max(map(len, prompts.phrase_categories))),
        scorer,
        checkpoint.rule,
        passes=3,
        pairs_per_batch=4,
    )
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
    detector._recorded = Recorded(detector._passes, record, ALONE, after=2)
    images = [photo(seed) for seed in range(5)] + [photo(9, 60, 120)]
    for one, image in enumerate(images):  # one by one: a copy on the CPU is the output itself
        assert_same(detector.detect([image])[0], exact.detect([image])[0])
        assert detector._recorded.replayed == max(0, min(one, 4) - 1)
    assert record.recorded == [(1, 128, 170, 3)]


def test_what_is_recorded_of_a_real_forward_gives_the_same_for_one_to_four_images(mm_folder):
    """Only operations on the same memory are run again, as a GPU does: all that depends on the images is among them."""
    detector = GroundingDino(mm_folder, ["cat", "house"], threads=1, pairs_per_batch=4)
    passes, capture = detector._passes, FakeCapture()
    recorded = Recorded(passes, GraphRecorder(lambda: passes.kept, capture), UP_TO_FOUR, after=1)
    with torch.inference_mode():
        for turn, images in enumerate((3, 1, 2, 4, 3, 1)):
            pixels = passes.upload([detector.prepare(photo(9 * turn + seed)) for seed in range(images)])
            found, expected = recorded(pixels), passes(pixels)
            assert found.shape == expected.shape
            assert torch.allclose(found, expected, atol=1e-5)
    assert (capture.captured, recorded.replayed, recorded.problem) == (3, 3, "")
    assert capture.launches > 100


def test_what_a_recording_reads_stays_though_it_is_kept_for_other_shapes_by_then(mm_folder):
    """Positions and masks that depend on the shape alone are made once, and make room for those of other shapes."""
    detector = GroundingDino(mm_folder, ["cat"], threads=1)
    passes, forward = detector._passes, detector.network.forward
    forward._levels_of = lru_cache(maxsize=1)(forward._make_levels)

    def replayed_after_another_shape(kept) -> torch.Tensor:
        forward._levels_of.cache_clear()
        passes(pixels)
        replay = GraphRecorder(kept, FakeCapture())(passes, pixels)
        passes(other)
        return replay(pixels)

    with torch.inference_mode():
        pixels, other = (passes.upload([detector.prepare(photo(0, 90, width))]) for width in (120, 90))
        expected = passes(pixels).clone()
        assert torch.equal(replayed_after_another_shape(lambda: passes.kept), expected)
        with pytest.raises(RuntimeError, match="illegal memory access"):
            replayed_after_another_shape(lambda: None)


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
    detector._recorded = Recorded(detector._passes, Recorder(), ALONE, after=9)
    detector._graphs = USED
    assert_same(detector.detect([photo(0)])[0], exact)
    assert_same(detector.detect([photo(0)])[0], exact)
    assert detector.pairs_per_batch == 1
    assert detector.description["cuda_graphs"] == "given up: the GPU's memory ran out"
    assert "memory" not in detector.description


def test_without_a_gpu_there_are_none_and_the_files_say_so(mm_folder):
    detector = GroundingDino(mm_folder, ["cat"], threads=1, cuda_graphs=True)
    assert detector.description["cuda_graphs"] == "not used: they are for the fast engine on a GPU"
    for asked in ("auto", False):
        assert "cuda_graphs" not in GroundingDino(mm_folder, ["cat"], threads=1, cuda_graphs=asked).description


def test_given_up_graphs_are_named(mm_folder):
    detector = GroundingDino(mm_folder, ["cat"], threads=1)
    detector._recorded, detector._graphs = (
        Recorded(detector._passes, Recorder(RuntimeError), ALONE, after=1),
        USED,
    )
    assert detector.description["cuda_graphs"] == USED
    detector.detect([photo(0)])
    words = "given up: RuntimeError: operation not permitted when stream is capturing"
    assert detector.description["cuda_graphs"] == words
