"""What only a GPU can show: run `make gpu` on a machine that has one. (`make test` leaves this out.)

The same kernels and engines as in `test_detectors_kernels` and `test_detectors_exactness`, on the device itself, at the
published models' size. Needs torch for CUDA, triton and what the detector imports; no Ray.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch

from labeler.detectors import GroundingDino
from labeler.detectors.clock import seconds_on
from labeler.detectors.graphs import GraphRecorder, Recorded
from labeler.detectors.grounding_dino.engine_check import FLOAT32, HALF, compare
from labeler.detectors.grounding_dino.fast import FastForward
from labeler.detectors.grounding_dino.fast.combine_triton import combine_triton
from labeler.detectors.grounding_dino.fast.kernels import PLAIN, LayerNorm, combine, two_softmaxes
from labeler.detectors.grounding_dino.fast.kernels_triton import TRITON
from labeler.detectors.grounding_dino.fast.sampling import Grid, sample
from labeler.detectors.grounding_dino.fast.sampling_triton import sample_triton
from labeler.detectors.grounding_dino.fast.softmax_triton import two_softmaxes_triton
from labeler.detectors.grounding_dino.scratch import create_checkpoint
from labeler.detectors.grounding_dino.split_forward import SplitForward
from tests.detector_parts import WORDS, assert_same, one_chunk, photo, three_chunks, tiny_model
from tests.kernel_references import exact_softmaxes

assert torch.cuda.is_available(), "gpu_checks: no GPU that torch can use"
GPU = torch.device("cuda")
SHAPES = ((100, 134), (50, 67), (25, 34), (13, 17))  # 800 x 1066
POSITIONS = sum(h * w for h, w in SHAPES)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ROUNDING = {torch.float32: 2e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


@pytest.fixture
def made_there():
    """New tensors are the GPU's."""
    with torch.device(GPU):
        yield


def timed(run) -> float:
    clock, best = seconds_on(GPU), float("inf")
    for _ in range(5):
        start = clock()
        run()
        best = min(best, clock() - start)
    return 1e3 * best


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sides", "queries"), [(2, POSITIONS), (4, 900)])
def test_sampling(made_there, dtype, sides, queries):
    grid = Grid.of(SHAPES, 4, GPU)
    values, raw = torch.randn(2, POSITIONS, 8, 32).to(dtype), (torch.randn(2, queries, 3, 8, 16) * 4).to(dtype)
    raw[0, 0, 0, 0, 0] = 6e4
    boxes = torch.rand(2, queries, sides)
    got, expected = sample_triton(values, raw, boxes, grid), sample(values, raw, boxes, grid)
    torch.testing.assert_close(got, expected, atol=ROUNDING[dtype], rtol=ROUNDING[dtype])
    ours, theirs = (timed(lambda way=way: way(values, raw, boxes, grid)) for way in (sample_triton, sample))
    print(f"\nsampling {queries} queries, {dtype}: kernel {ours:.3f} ms, torch {theirs:.3f} ms")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norms", [0, 1, 2])
def test_residuals_and_norms(made_there, dtype, norms):
    full, moved = torch.randn(4, POSITIONS, 256) * 3, torch.randn(4, POSITIONS, 256).to(dtype)
    steps = tuple(LayerNorm(torch.randn(256), torch.randn(256), 1e-5) for _ in range(norms))
    position = torch.randn(1, POSITIONS, 256)
    got, expected = combine_triton(full, moved, steps, position), combine(full, moved.clone(), steps, position)
    torch.testing.assert_close(got.full, expected.full, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.placed, expected.placed, atol=ROUNDING[dtype], rtol=ROUNDING[dtype])
    ours = timed(lambda: combine_triton(full, moved, steps, position))
    theirs = timed(lambda: combine(full, moved.clone(), steps, position))
    print(f"\n{norms} norms, {dtype}: kernel {ours:.3f} ms, torch {theirs:.3f} ms")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [256, 48, 21])
def test_both_softmaxes(made_there, dtype, tokens):
    scores = (torch.randn(2, POSITIONS, 4 * tokens) * 10).to(dtype)
    bias = torch.randn(2, 4 * tokens).to(dtype)
    bias.view(2, 4, tokens)[1, :, tokens // 2 :] = float("-inf")
    first, second, total = two_softmaxes_triton(scores.clone(), bias, 4)
    over_tokens, over_positions = exact_softmaxes(scores, bias, 4)
    torch.testing.assert_close(first.double(), over_tokens, atol=ROUNDING[dtype], rtol=0)
    divided = second.double() / total[:, None].double().clamp(min=1.0)
    known = bias.isfinite()
    divided, over_positions = (each.transpose(1, 2)[known] for each in (divided, over_positions))
    torch.testing.assert_close(divided, over_positions, atol=ROUNDING[dtype], rtol=0)
    ours, theirs = (
        timed(lambda way=way: way(scores.clone(), bias, 4)) for way in (two_softmaxes_triton, two_softmaxes)
    )
    print(f"\nsoftmaxes of {tokens} tokens, {dtype}: kernels {ours:.3f} ms, torch {theirs:.3f} ms")


@pytest.mark.parametrize("kind", ["original", "mm"])
@pytest.mark.parametrize("kernels", [TRITON, PLAIN], ids=["triton", "torch"])
def test_a_small_model_equals_the_reference_on_the_cpu(tmp_path, kind, kernels):
    reference = SplitForward(tiny_model(tmp_path, kind))
    pixels = torch.randn(1, 3, 96, 128)
    chunks = [one_chunk(reference.detector, "red cat", "dog"), one_chunk(reference.detector, "dog")]
    both = torch.tensor([0, 0])
    expected = reference.detect(reference.encode_image(pixels).take(both), reference.encode_text(chunks))
    model = tiny_model(tmp_path, kind)
    fast = FastForward(model.to(GPU), kernels=kernels)
    text = fast.encode_text(chunks)
    logits, boxes = fast.detect(fast.encode_image(pixels.to(GPU)).take(both.to(GPU)), text)
    width = expected[0].shape[-1]
    for row in range(2):
        mask = text.token_mask[row, :width].cpu()
        found = logits[row : row + 1, :, :width].cpu(), boxes[row : row + 1].cpu()
        check = compare((expected[0][row : row + 1], expected[1][row : row + 1]), found, mask, FLOAT32)
        assert check.passed, check


@pytest.fixture(scope="session")
def full_folder(tmp_path_factory):
    return create_checkpoint(tmp_path_factory.mktemp("full"), words=WORDS, kind="original", size="full", redraw=True)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_model_of_the_published_size_is_as_equal_as_the_engine_check_wants(full_folder, dtype):
    detector = GroundingDino(full_folder, three_chunks(full_folder), device="cuda", dtype=dtype)
    print(f"\n{dtype}: {detector.description}, {detector.pairs_per_batch} pairs per forward pass")
    if dtype == "float32":  # in half precision random weights show every rounding, which is for real ones to judge
        assert detector.description["engine"] == "fast"
    assert "kernels" not in detector.description["engine_check"]  # triton's were good


def test_a_forward_never_waits_for_the_gpu(full_folder):
    detector = GroundingDino(full_folder, three_chunks(full_folder), device="cuda", engine="fast", pairs_per_batch=4)
    pixels = detector._passes.upload([detector.prepare(photo(0, 300, 400))] * 2)
    detector._passes(pixels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        detector._passes(pixels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_recorded_forwards_give_what_launched_ones_give(full_folder):
    """Use more shapes than are recorded, and than constants are kept for, so that they evict each other."""
    detector = GroundingDino(full_folder, three_chunks(full_folder), device="cuda", engine="fast", pairs_per_batch=4)
    passes, forward = detector._passes, detector.network.forward
    forward._levels_of = lru_cache(maxsize=2)(forward._make_levels)
    recorded = Recorded(passes, GraphRecorder(lambda: passes.kept), {1: 1, 2: 2, 3: 4, 4: 4}, after=2, most=4)
    sizes = [(300, 400), (300, 300), (400, 300), (300, 500), (320, 330)]
    images = [detector.prepare(photo(seed, *sizes[seed % len(sizes)])) for seed in range(10)]
    rows = []
    for turn in range(4):
        for image in images:
            pixels = passes.upload([image])
            got = recorded(pixels).clone()
            rows.append((turn, got, passes(pixels)))
    assert not recorded.problem
    assert recorded.replayed > 20
    for turn, got, expected in rows:
        same = ((got - expected).abs() <= 1e-3).all(-1).float().mean()
        assert same >= HALF.matched, (turn, same)


def test_a_detector_with_graphs_gives_what_one_without_gives(full_folder):
    prompts = three_chunks(full_folder)
    plain = GroundingDino(full_folder, prompts, device="cuda", engine="fast", pairs_per_batch=3, cuda_graphs=False)
    graphs = GroundingDino(full_folder, prompts, device="cuda", engine="fast", pairs_per_batch=3, cuda_graphs=True)
    print(f"\n{graphs.description['cuda_graphs']}")
    recorded = graphs._recorded
    assert recorded is not None, "they were not equal"
    images = [photo(seed, 300, 400) for seed in range(12)]
    for found, expected in zip(graphs.detect(images), plain.detect(images), strict=True):
        assert abs(len(found) - len(expected)) <= 0.03 * len(expected) + 1
        best = min(50, len(found), len(expected))
        np.testing.assert_allclose(np.sort(found.scores)[-best:], np.sort(expected.scores)[-best:], atol=0.02)
    assert recorded.replayed >= 5
    assert not recorded.problem
    recorded.forget()
    for _ in range(5):  # a pool that has gone is not used again
        graphs.detect(images[:1])
    assert not recorded.problem


def test_memory_that_runs_out_halves_the_batch(tmp_path):
    folder = create_checkpoint(tmp_path, words=WORDS, kind="mm", redraw=True)
    exact = GroundingDino(folder, three_chunks(folder), device="cuda", dtype="float32", pairs_per_batch=3)
    detector = GroundingDino(folder, three_chunks(folder), device="cuda", dtype="float32", pairs_per_batch=3 * 64)
    images = [photo(seed, 90, 120) for seed in range(64)]
    expected = exact.detect(images)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.reset_peak_memory_stats()
    detector.detect(images)
    needed = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.5 * needed / total)
    try:
        found = detector.detect(images)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert detector.pairs_per_batch < 3 * 64
    assert "ran out" in detector.description["memory"]
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs, scores=1e-3, pixels=0.1)
