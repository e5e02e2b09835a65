"""The backbone of the fast engine: equal to the bit to transformers' modules, in either precision, of any shape."""

from __future__ import annotations

import pytest
import torch
import transformers

from labeler.detectors.grounding_dino.fast import FastForward
from labeler.detectors.grounding_dino.split_forward import SplitForward
from tests.detector_parts import tiny_model

SHAPES = [(1, 64, 96), (2, 75, 61), (1, 33, 200)]


SWIN = transformers.SwinConfig(
    embed_dim=8, depths=[2, 2, 2, 2], num_heads=[1, 2, 2, 4], window_size=5, out_features=["stage2", "stage3", "stage4"]
)
CONVNEXT = transformers.ConvNextConfig(
    hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], out_features=["stage2", "stage3", "stage4"]
)


def model_with(tmp_path, kind, backbone):
    """A small model around a backbone, with every parameter redrawn."""
    small = tiny_model(tmp_path, kind)
    small.config.backbone_config = backbone
    model = type(small)(small.config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def same(found, expected) -> None:
    assert found.level_shapes == expected.level_shapes
    assert found.padded is expected.padded is False
    for name in ("features", "position_embedding", "mask", "valid_ratios"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype, name
        assert torch.equal(one, other), (name, (one - other).abs().max())


@pytest.mark.parametrize("kind", ["original", "mm"])
@pytest.mark.parametrize("half", [None, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backbone", [SWIN, CONVNEXT], ids=["swin", "convnext"])
def test_it_is_transformers_own_to_the_bit(tmp_path, kind, backbone, half) -> None:
    model = model_with(tmp_path, kind, backbone)
    reference, fast = SplitForward(model, half=half), FastForward(model, half=half)
    assert fast._backbone is not None
    with torch.inference_mode():
        for images, height, width in SHAPES * 2:  # the second time from what is kept
            pixels = torch.randn(images, 3, height, width)
            same(fast.encode_image(pixels), reference.encode_image(pixels))


def test_once_more_in_float32_is_float32(tmp_path) -> None:
    model, pixels = model_with(tmp_path, "mm", SWIN), torch.randn(1, 3, 64, 96)
    fast = FastForward(model, half=torch.float16)
    with torch.inference_mode():
        halves = fast.encode_image(pixels)
        fast.half = None
        whole = fast.encode_image(pixels)
        same(whole, SplitForward(model).encode_image(pixels))
    assert not torch.equal(halves.features, whole.features)


def test_what_a_forward_read_of_what_is_kept_is_told(tmp_path) -> None:
    """A recorded CUDA graph reads it again: it must not be dropped while the recording lives."""
    fast = FastForward(model_with(tmp_path, "mm", SWIN), half=torch.float16)
    with torch.inference_mode():
        fast.encode_image(torch.randn(1, 3, 64, 96))
        first = dict(fast._backbone.last)
        assert {name for name, _ in first} == {"axes", "mask"}
        assert any(kept is not None for (name, _), kept in first.items() if name == "mask")
        fast.encode_image(torch.randn(1, 3, 96, 64))
        assert fast._backbone.last.keys() == first.keys()
        fast.encode_image(torch.randn(1, 3, 64, 96))
        for name, kept in fast._backbone.last.items():
            assert kept is first[name]
