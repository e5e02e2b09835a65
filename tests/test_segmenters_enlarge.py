"""Windows of enlarged logits against torch's enlargement of everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from labeler.segmenters.enlarge import Enlarging

GRID = 32


def logits(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(GRID, GRID)).astype(np.float32)


def enlarged(values: np.ndarray, *sizes: tuple[int, int], cut: tuple[int, int] | None = None) -> np.ndarray:
    """Torch's resizes of the whole, one after the other, cut to its first pixels before the last."""
    made = torch.from_numpy(values)[None, None]
    for number, size in enumerate(sizes):
        if cut is not None and number == len(sizes) - 1:
            made = made[..., : cut[0], : cut[1]]
        made = functional.interpolate(made, size, mode="bilinear", align_corners=False)
    return made[0, 0].numpy()


def assert_equal_but_at_zero(found: np.ndarray, whole: np.ndarray, window: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = window
    expected = whole[top:bottom, left:right]
    assert found.shape == (right - left, bottom - top)
    different = (expected > 0) != found.T
    assert (np.abs(expected[different]) < 1e-5).all()
    assert different.mean() < 1e-3


@pytest.mark.parametrize("window", [(0, 0, 300, 200), (17, 40, 120, 199), (299, 199, 300, 200), (0, 50, 1, 51)])
def test_one_resize_is_cut_out_exactly(window: tuple[int, int, int, int]) -> None:
    found = Enlarging(((GRID, 200),), ((GRID, 300),)).inside(logits(), window)
    assert_equal_but_at_zero(found, enlarged(logits(), (200, 300)), window)


@pytest.mark.parametrize(
    ("height", "width"), [(200, 300), (300, 200), (1000, 90), (3, 500), (128, 128), (40, 60), (7, 7), (1, 1)]
)
def test_two_resizes_with_the_padding_cut_off_between_them_are_cut_out_exactly(height: int, width: int) -> None:
    side, scale = 128, 128 / max(height, width)
    fed = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
    whole = enlarged(logits(1), (side, side), (height, width), cut=fed)
    enlarging = Enlarging(((GRID, side), (fed[0], height)), ((GRID, side), (fed[1], width)))
    rng = np.random.default_rng(height * width)
    for _ in range(10):
        left, top = int(rng.integers(width)), int(rng.integers(height))
        window = (left, top, int(rng.integers(left, width)) + 1, int(rng.integers(top, height)) + 1)
        assert_equal_but_at_zero(enlarging.inside(logits(1), window), whole, window)
    window = (0, 0, width, height)
    assert_equal_but_at_zero(enlarging.inside(logits(1), window), whole, window)


def test_a_large_window_is_made_in_bands_and_no_column_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    enlarging, window = Enlarging(((GRID, 100),), ((GRID, 90),)), (3, 2, 88, 99)
    whole = enlarging.inside(logits(2), window)
    monkeypatch.setattr("labeler.segmenters.enlarge._BAND", 250)
    assert np.array_equal(enlarging.inside(logits(2), window), whole)
