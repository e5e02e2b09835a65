"""OWLv2's resize on the device against its own processor, which takes scipy and the Pillow side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

from labeler.detectors.gaussian import resize_in_square
from labeler.detectors.passes import Passes
from labeler.detectors.preprocess import Preprocessing
from labeler.prompts.image_rule import GAUSSIAN, ImageRule
from labeler.prompts.owl.family import OWL_V2


def drawn(height: int, width: int) -> np.ndarray:
    """Noise has every frequency: a filter that differs shows."""
    return np.random.default_rng(height * 7 + width).integers(0, 256, (height, width, 3), np.uint8)


def of_transformers(image: np.ndarray, side: int) -> np.ndarray:
    """(side, side, 3) levels of 0 to 255, before anything is normalized."""
    processor = Owlv2ImageProcessorPil(size={"height": side, "width": side}, do_normalize=False)
    return np.asarray(processor(image)["pixel_values"][0]).transpose(1, 2, 0) * 255


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [
        (300, 200, 96),
        (200, 300, 96),
        (400, 100, 96),
        (97, 96, 96),
        (96, 96, 96),
        (40, 70, 96),
        (5, 500, 96),
        (2, 2, 32),
    ],
)
def test_it_equals_their_resize_of_the_filled_square(height: int, width: int, side: int) -> None:
    image = drawn(height, width)
    found = resize_in_square(torch.from_numpy(image), side).numpy()
    assert found.shape == (side, side, 3)
    np.testing.assert_allclose(found, of_transformers(image, side), atol=2e-3)


def test_pillow_would_give_other_pixels() -> None:
    """So the tolerance above means something: noise at a third of its size."""
    image = drawn(300, 300)
    rule = ImageRule("square", (96, 96))
    pillow = Preprocessing(rule).prepare(image).pixels
    assert np.abs(pillow - of_transformers(image, 96)).mean() > 1


def test_what_the_network_gets_equals_their_processor() -> None:
    rule = OWL_V2.image_rule({"size": {"height": 96, "width": 96}}, {"vision_config": {"image_size": 96}}, "owl")
    assert (rule.resample, rule.frame(40, 100), rule.canvas(40, 100)) == (GAUSSIAN, (100, 100), (96, 96))
    images = [drawn(120, 310), drawn(310, 120)]

    class Device:
        device = torch.device("cpu")

    passes = Passes(Device(), None, None, rule, passes=1)  # type: ignore[arg-type]
    prepared = [Preprocessing(rule).prepare(image) for image in images]
    assert {each.shape for each in prepared} == {(96, 96, 3)}  # images of any size share a forward pass
    found = passes.normalize(passes.upload(prepared))
    processor = Owlv2ImageProcessorPil(size={"height": 96, "width": 96})
    np.testing.assert_allclose(found.numpy(), np.stack(processor(images)["pixel_values"]), atol=1e-4)
