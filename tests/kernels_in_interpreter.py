"""The GPU kernels in triton's interpreter; `test_detectors_kernels` runs this file in a process of its own.

(The interpreter has to be asked for, by TRITON_INTERPRET=1, before triton is first imported.)
"""

from __future__ import annotations

import os

import pytest
import torch

from labeler.detectors.grounding_dino.fast import FastForward
from labeler.detectors.grounding_dino.fast.combine_triton import combine_triton
from labeler.detectors.grounding_dino.fast.kernels import LayerNorm, combine, look, two_softmaxes
from labeler.detectors.grounding_dino.fast.kernels_triton import TRITON
from labeler.detectors.grounding_dino.fast.sampling import Grid, sample
from labeler.detectors.grounding_dino.fast.sampling_triton import sample_triton
from labeler.detectors.grounding_dino.fast.softmax_triton import look_triton, two_softmaxes_triton
from labeler.detectors.grounding_dino.split_forward import SplitForward
from tests.detector_parts import one_chunk, tiny_model
from tests.kernel_references import POSITIONS, SHAPES, by_grid_sample, exact_softmaxes

assert os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


@pytest.mark.parametrize(("sides", "shared", "queries"), [(2, True, 5), (4, False, 33), (4, True, 32)])
def test_sampling_equals_grid_sample_inside_and_outside(sides, shared, queries):
    values, raw = torch.randn(2, POSITIONS, 2, 8), torch.randn(2, queries, 3, 2, 16) * 4
    raw[0, 0, 0, 0, 0], raw[0, 1, 1, 1, 3] = 1e30, -1e30  # far outside
    boxes = torch.rand(1 if shared else 2, queries, sides)
    expected, outside = by_grid_sample(values, raw, boxes, 4)
    assert 0.05 < outside < 0.9
    got = sample_triton(values, raw, boxes, Grid.of(SHAPES, 4, torch.device("cpu")))
    torch.testing.assert_close(got, expected, atol=4e-6, rtol=0)


def test_sampling_at_the_very_edges_equals_grid_sample():
    """Points on and half a pixel around every border, where a corner falls in or out."""
    values, raw = torch.randn(1, POSITIONS, 2, 8), torch.randn(1, 64, 3, 2, 16)
    raw[:, :, :2] = torch.randint(-4, 5, raw[:, :, :2].shape) / 2
    corners = torch.cartesian_prod(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.0, 0.5, 1.0]))
    boxes = corners.repeat(8, 1)[None, :64]
    expected, _ = by_grid_sample(values, raw, boxes, 4)
    got = sample_triton(values, raw, boxes, Grid.of(SHAPES, 4, torch.device("cpu")))
    torch.testing.assert_close(got, expected, atol=4e-6, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_sampling_of_halves_is_summed_in_float32(dtype):
    grid = Grid.of(SHAPES, 4, torch.device("cpu"))
    values, raw, boxes = torch.randn(1, POSITIONS, 2, 8).to(dtype), torch.randn(1, 5, 3, 2, 16), torch.rand(1, 5, 4)
    got = sample_triton(values, raw, boxes, grid)
    assert got.dtype == dtype
    torch.testing.assert_close(got, sample(values.float(), raw, boxes, grid).to(dtype), atol=1e-3, rtol=1e-2)


def test_heads_that_are_no_power_of_two_are_sampled_by_torch():
    grid = Grid.of(SHAPES, 4, torch.device("cpu"))
    values, raw, boxes = torch.randn(1, POSITIONS, 2, 12), torch.randn(1, 5, 3, 2, 16), torch.rand(1, 5, 4)
    assert torch.equal(sample_triton(values, raw, boxes, grid), sample(values, raw, boxes, grid))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "norms", "places"), [(32, 0, 1), (32, 1, 3), (32, 2, 0), (48, 2, 3), (48, 1, 1)])
def test_a_residual_its_norms_and_its_copies(dtype, width, norms, places):
    """`places`: of how many of the three images a position embedding is given, 0 for none."""
    full, moved = torch.randn(3, 7, width) * 3 + 5, torch.randn(3, 7, width).to(dtype)
    layers = [torch.nn.LayerNorm(width) for _ in range(norms)]
    for layer in layers:
        layer.weight.copy_(torch.randn(width))
        layer.bias.copy_(torch.randn(width))
    position = torch.randn(places, 7, width) if places else None
    steps = tuple(map(LayerNorm.of, layers))
    before = full.clone(), moved.clone()
    got = combine_triton(full, moved, steps, position)
    assert torch.equal(full, before[0])
    expected = combine(before[0], before[1].clone(), steps, position)
    exact = before[0].double() + before[1].double()
    for layer in layers:
        exact = layer.double()(exact)
    torch.testing.assert_close(got.full.double(), exact, atol=1e-5, rtol=1e-5)
    assert got.full.dtype == torch.float32
    assert got.product.dtype == dtype
    cut_off = 2**-7 if dtype == torch.bfloat16 else 0  # where the interpreter does not round
    torch.testing.assert_close(got.product, got.full.to(dtype), atol=0, rtol=cut_off)
    assert (got.placed is None) == (position is None)
    if got.placed is not None:
        assert got.placed.dtype == dtype
        torch.testing.assert_close(got.placed, expected.placed, atol=ROUNDING[dtype], rtol=ROUNDING[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("positions", "tokens", "heads"), [(5, 8, 4), (150, 11, 2), (64, 70, 4)])
def test_both_softmaxes_equal_float64(dtype, positions, tokens, heads):
    scores = (torch.randn(2, positions, heads * tokens) * 20).to(dtype)
    padding = torch.zeros(2, heads, tokens, dtype=torch.bool)
    padding[1, :, tokens // 2 :] = True
    bias = torch.randn(2, heads * tokens).masked_fill(padding.flatten(1), float("-inf")).to(dtype)
    biased, none = scores + bias[:, None], torch.zeros_like(bias)
    ways = (
        (two_softmaxes_triton(scores.clone(), bias, heads), exact_softmaxes(scores, bias, heads)),
        (two_softmaxes(biased.clone(), heads), exact_softmaxes(biased, none, heads)),
    )
    for (first, second, total), (over_tokens, over_positions) in ways:
        assert first.dtype == second.dtype == dtype
        assert total.dtype == torch.float32
        torch.testing.assert_close(first.double(), over_tokens, atol=ROUNDING[dtype], rtol=0)
        tokens_only = ~padding.flatten(1)
        assert total[tokens_only].ge(1 - ROUNDING[dtype]).all()
        divided = second.double() / total[:, None].double().clamp(min=1.0)
        assert divided.isfinite().all()
        divided, exact = (each.transpose(1, 2)[tokens_only] for each in (divided, over_positions))
        torch.testing.assert_close(divided, exact, atol=ROUNDING[dtype], rtol=0)


def test_looking_without_copied_biases_is_looking():
    vision, keys, values = torch.randn(2, 40, 16), torch.randn(2, 12, 16), torch.randn(2, 12, 16)
    bias, out_bias = torch.randn(2, 12), torch.randn(16)
    bias[1, 2:4] = float("-inf")
    expected = look(vision, keys, values, bias, out_bias, 3)
    seen, weights, total = look_triton(vision, keys, values, bias, out_bias, 3)
    torch.testing.assert_close(seen, expected[0], atol=1e-5, rtol=0)
    known = bias.isfinite()
    ours, theirs = ((each / sums[:, None]).transpose(1, 2)[known] for each, sums in ((weights, total), expected[1:]))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.slow  # in the interpreter; each kernel by itself is not
def test_a_whole_forward_with_the_kernels_equals_the_reference(tmp_path):
    model = tiny_model(tmp_path, "original")
    reference, fast = SplitForward(model), FastForward(model, kernels=TRITON)
    image = reference.encode_image(torch.randn(1, 3, 64, 96))
    text = reference.encode_text([one_chunk(model, "red cat", "dog"), one_chunk(model, "dog")])
    both = torch.tensor([0, 0])
    expected = reference.detect(image.take(both), text)
    for ours, theirs in zip(fast.detect(image.take(both), text), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_whole_forward_in_half_precision_is_what_torchs_own_operations_give(tmp_path):
    model = tiny_model(tmp_path, "mm")
    kernels, plain = (FastForward(model, half=torch.float16, **options) for options in ({"kernels": TRITON}, {}))
    image, text = plain.encode_image(torch.randn(1, 3, 64, 96)), plain.encode_text([one_chunk(model, "red cat", "dog")])
    (logits, boxes), (other_logits, other_boxes) = kernels.detect(image, text), plain.detect(image, text)
    nearest = torch.cdist(boxes[0], other_boxes[0], p=1).min(1)
    close = nearest.values < 0.01
    assert close.float().mean() > 0.95  # ranks of proposals change with the rounding
    error = (logits[0].sigmoid() - other_logits[0, nearest.indices].sigmoid())[close].abs()
    assert error.mean() < 2e-3
