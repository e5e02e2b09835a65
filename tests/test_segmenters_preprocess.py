"""labeler's resizing against that of transformers, which needs torchvision for SAM 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from labeler.segmenters.preprocess import MaskPreprocessing
from tests.segmenter_parts import PATTERNS, pattern, tiny_sam

SIDE = 128


def settings(folder: Path) -> MaskPreprocessing:
    from labeler.segmenters import resolve_segmenter

    return MaskPreprocessing.of(resolve_segmenter(folder, weights=False))


@pytest.mark.parametrize("size", PATTERNS)
def test_sam_is_fed_the_very_pixels_of_its_image_processor(size: tuple[int, int]) -> None:
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    from labeler.segmenters.sam import Sam

    sam = Sam(tiny_sam("sam"), device="cpu", threads=1)
    image = pattern(*size)
    processor = SamImageProcessorPil.from_pretrained(tiny_sam("sam"))
    expected = processor(image, return_tensors="pt")
    prepared = sam.prepare(image)
    assert prepared.pixels.shape[:2] == tuple(expected["reshaped_input_sizes"][0].tolist())
    assert (prepared.height, prepared.width) == tuple(expected["original_sizes"][0].tolist()) == size
    assert torch.equal(sam._normalized(prepared), expected["pixel_values"])


@pytest.mark.parametrize("size", PATTERNS)
def test_sam_2_is_fed_a_square_within_a_level_of_torch_s_antialiased_resize(size: tuple[int, int]) -> None:
    """Torchvision resizes with this function, and Pillow with the same filter in whole numbers."""
    image = pattern(*size)
    prepared = settings(tiny_sam("sam2")).prepare(image)
    assert prepared.pixels.shape == (SIDE, SIDE, 3)
    whole = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = functional.interpolate(whole, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
    difference = prepared.pixels.astype(np.float32) - expected[0].permute(1, 2, 0).numpy()
    assert np.abs(difference).max() <= 1.01


def test_a_side_never_becomes_nothing() -> None:
    assert settings(tiny_sam("sam")).resized_shape(1, 5000) == (1, SIDE)
    assert settings(tiny_sam("sam")).resized_shape(5000, 1) == (SIDE, 1)
    assert settings(tiny_sam("sam2")).resized_shape(1, 5000) == (SIDE, SIDE)


def test_only_upright_rgb_bytes_are_images() -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        settings(tiny_sam("sam")).prepare(np.zeros((4, 4), np.uint8))
