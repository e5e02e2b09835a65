"""The parts of the fast engine, each against the transformers module that it stands for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers

from labeler.detectors.grounding_dino.fast import FastForward, why_unsupported
from labeler.detectors.grounding_dino.fast.deformable import Deformable
from labeler.detectors.grounding_dino.fast.fusion import FusionLayer
from labeler.detectors.grounding_dino.fast.kernels import PLAIN, Features, LayerNorm
from labeler.detectors.grounding_dino.fast.layers import Attention, FeedForward, Linear
from labeler.detectors.grounding_dino.fast.sampling import Grid, sample
from labeler.detectors.grounding_dino.scratch import create_checkpoint
from labeler.detectors.grounding_dino.split_forward import SplitForward
from tests.detector_parts import one_chunk, tiny_model
from tests.kernel_references import POSITIONS, SHAPES, by_grid_sample

FLOAT32 = torch.float32


@pytest.fixture(scope="module", params=["original", "mm"])
def detector(request, tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def width(detector) -> int:
    return detector.config.d_model


def fused(layer, vision, text, padding):
    """Both streams after the fast fusion of the same layer."""
    fusion = FusionLayer.of(layer, FLOAT32)
    vision = fusion.norm_vision(vision)
    seen, read = fusion(vision, text, padding, PLAIN)
    return vision + seen, read


def test_fusion_equals_the_layer_with_all_its_projections(detector):
    layer = detector.model.encoder.layers[0].fusion_layer
    vision, text = torch.randn(2, POSITIONS, width(detector)), torch.randn(2, 11, width(detector))
    padding = torch.zeros(2, 11, dtype=torch.bool)
    padding[1, 7:] = True
    (seen, _), (read, _) = layer(vision, text, torch.zeros(2, POSITIONS, dtype=torch.bool), padding)
    got_seen, got_read = fused(layer, vision, text, padding)
    torch.testing.assert_close(got_seen, seen, atol=1e-5, rtol=0)
    real = ~padding
    torch.testing.assert_close(got_read[real], read[real], atol=1e-5, rtol=0)
    assert got_read.isfinite().all()
    assert (seen - vision).abs().max() > 0.1  # the gates are open: the layer does something


def test_fusion_of_scores_beyond_what_exp_can_hold(detector):
    """Logits of some hundreds: without taking off the maximum first, exp would overflow."""
    layer = detector.model.encoder.layers[1].fusion_layer
    scale, layer.attn.scale = layer.attn.scale, layer.attn.scale * 300
    try:
        vision, text = torch.randn(1, POSITIONS, width(detector)), torch.randn(1, 6, width(detector))
        (seen, _), (read, _) = layer(vision, text, None, None)
        got_seen, got_read = fused(layer, vision, text, None)
    finally:
        layer.attn.scale = scale
    torch.testing.assert_close(got_seen, seen, atol=1e-3, rtol=0)
    torch.testing.assert_close(got_read, read, atol=1e-3, rtol=0)


def test_fusion_in_half_precision_of_tokens_that_look_everywhere(detector):
    """Their sum over the positions, before it is divided, is beyond what a half can hold."""
    layer = detector.model.encoder.layers[0].fusion_layer
    vision, text = torch.full((1, 30_000, width(detector)), 3.0), torch.zeros(1, 2, width(detector))
    exact, half = (
        FusionLayer.of(layer, dtype)(vision.to(dtype), text, None, PLAIN)[1] for dtype in (FLOAT32, torch.half)
    )
    assert half.isfinite().all()
    torch.testing.assert_close(half.float(), exact, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("sides", [2, 4])
def test_deformable_attention_equals_the_module(detector, sides):
    module = detector.model.decoder.layers[0].encoder_attn
    hidden, source = torch.randn(2, 13, width(detector)), torch.randn(2, POSITIONS, width(detector))
    references = torch.rand(2, 13, sides)
    expected, _ = module(
        hidden_states=hidden,
        encoder_hidden_states=source,
        reference_points=references[:, :, None].expand(-1, -1, len(SHAPES), -1),
        spatial_shapes=torch.tensor(SHAPES),
        spatial_shapes_list=list(SHAPES),
    )
    ours = Deformable.of(module, FLOAT32)
    got = ours(hidden, source, references, Grid.of(SHAPES, ours.points, torch.device("cpu")), PLAIN)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("references", [2, 4])
@pytest.mark.parametrize("shared", [True, False])
def test_sampling_equals_grid_sample_inside_and_outside(references, shared):
    values, raw = torch.randn(2, POSITIONS, 4, 8), torch.randn(2, 17, 3, 4, 16) * 4
    boxes = torch.rand(1 if shared else 2, 17, references)
    expected, outside = by_grid_sample(values, raw, boxes, 4)
    assert 0.05 < outside < 0.9
    got = sample(values, raw, boxes, Grid.of(SHAPES, 4, torch.device("cpu")))
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)


def test_sampling_on_the_edges_of_pixels_and_far_away():
    values = torch.randn(1, POSITIONS, 1, 4)
    raw = torch.zeros(1, 6, 3, 1, 16)
    raw[0, 3, :2], raw[0, 4, :2], raw[0, 5, 0] = 1e6, -1e6, 1e30
    corners = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])[None]
    expected, _ = by_grid_sample(values, raw, corners, 4)
    got = sample(values, raw, corners, Grid.of(SHAPES, 4, torch.device("cpu")))
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    assert got[0, 3:].eq(0).all()


def test_attention_and_feed_forward_equal_the_modules(detector):
    layer = detector.model.decoder.layers[0]
    hidden, position, text = (torch.randn(2, n, width(detector)) for n in (13, 13, 6))
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    seen = Attention.of(layer.encoder_attn_text, FLOAT32).to_others(hidden + position, text, mask[:, None, None])
    additive = (~mask[:, None, None]).float() * torch.finfo(FLOAT32).min
    torch.testing.assert_close(
        seen, layer.encoder_attn_text(hidden + position, text, text, additive)[0], atol=1e-5, rtol=0
    )
    own = Attention.of(layer.self_attn, FLOAT32).to_itself(hidden + position, hidden)
    expected = layer.self_attn(hidden + position, hidden + position, hidden)[0]
    torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)
    many = torch.randn(2, 1000, width(detector))  # more rows than are done at once
    feed = FeedForward.of(layer, layer.activation_fn, layer.final_layer_norm, FLOAT32)
    expected = layer.final_layer_norm(many + layer.fc2(layer.activation_fn(layer.fc1(many))))
    torch.testing.assert_close(feed(Features(many, many), PLAIN).full, expected, atol=1e-5, rtol=0)
    then = LayerNorm.of(layer.self_attn_layer_norm)
    twice = feed(Features(many, many), PLAIN, (then,))
    torch.testing.assert_close(twice.full, layer.self_attn_layer_norm(expected), atol=1e-5, rtol=0)


def test_on_a_gpu_the_relu_of_a_feed_forward_is_part_of_the_product(detector, monkeypatch):
    """torch's name for such a product is not public: where it is missing, nothing but the speed changes."""
    layer = detector.model.decoder.layers[0]
    feed = FeedForward.of(layer, layer.activation_fn, layer.final_layer_norm, FLOAT32)
    rows = torch.randn(2, 13, width(detector))
    found = torch._addmm_activation(feed.first.bias, rows.flatten(0, -2), feed.first.weight.t())
    torch.testing.assert_close(found.view(2, 13, -1), feed._hidden(rows), atol=1e-6, rtol=0)
    on_meta = replace(feed, first=Linear(feed.first.weight.to("meta"), feed.first.bias.to("meta")))
    called = []
    product = torch._addmm_activation
    monkeypatch.setattr(torch, "_addmm_activation", lambda *of: called.append(1) or product(*of))
    assert on_meta._hidden(rows.to("meta")).shape == (2, 13, len(feed.first.weight))
    assert called
    monkeypatch.delattr(torch, "_addmm_activation")
    assert on_meta._hidden(rows.to("meta")).shape == (2, 13, len(feed.first.weight))


def encoded(engine, detector):
    torch.manual_seed(3)
    return engine.encode_image(torch.randn(1, 3, 96, 128)), engine.encode_text([one_chunk(detector, "red cat", "dog")])


def found_again(exact, other) -> tuple[float, float]:
    """How many boxes of one result another has, too, and the mean difference of their tokens' probabilities."""
    (logits, boxes), (other_logits, other_boxes) = exact, other
    nearest = torch.cdist(boxes[0], other_boxes[0], p=1).min(1)
    close = nearest.values < 0.02
    error = (logits[0].sigmoid() - other_logits[0, nearest.indices].sigmoid())[close].abs()
    return float(close.float().mean()), float(error.mean())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_it_is_as_close_to_float32_as_the_reference_under_autocast(detector, dtype):
    exact = SplitForward(detector)
    expected = exact.detect(*encoded(exact, detector))
    ours, theirs = (
        engine(detector, half=dtype).detect(*encoded(exact, detector)) for engine in (FastForward, SplitForward)
    )
    assert ours[0].dtype == ours[1].dtype == FLOAT32
    assert not torch.equal(ours[1], expected[1])  # it did run in half precision
    (found, error), (their_found, their_error) = found_again(expected, ours), found_again(expected, theirs)
    assert found >= their_found - 0.1  # ranks of proposals change with the rounding
    assert error <= 1.5 * their_error + 1e-3
    if dtype == torch.float16:
        assert found >= 0.9
        assert error < 0.005


def test_half_precision_turned_off_is_the_reference_to_the_bit(detector):
    exact, half = SplitForward(detector), FastForward(detector, half=torch.bfloat16)
    half.half = None
    for ours, reference in zip(
        half.detect(*encoded(exact, detector)), exact.detect(*encoded(exact, detector)), strict=True
    ):
        assert torch.equal(ours, reference)


def test_a_model_built_otherwise_is_not_understood(tmp_path):
    folder = create_checkpoint(tmp_path, words=["cat"])
    model = transformers.MMGroundingDinoForObjectDetection.from_pretrained(folder).eval()
    assert why_unsupported(model) is None
    attention = model.model.encoder.layers[1].deformable_layer.self_attn
    attention.value_proj = torch.nn.Linear(32, 32, bias=False)
    assert "value_proj is not a linear layer with a bias" in str(why_unsupported(model))
    del attention.value_proj
    assert "builds it otherwise" in str(why_unsupported(model))
