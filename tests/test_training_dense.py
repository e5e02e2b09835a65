"""The dense teacher: which positions are asked for what."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from labeler.training.dense import DenseHead, dense_loss
from labeler.training.losses import Targets

LEVELS = [(4, 4), (2, 2)]  # 20 positions
TOKENS = 3
MASK = torch.tensor([[True, True, False]])


def _targets(*boxes: list[float]) -> Targets:
    """Object i is asked for by token i; padded with a box that is not an object."""
    padded = torch.tensor([*boxes, [0.5, 0.5, 1.0, 1.0]])[None]
    tokens = torch.zeros((1, len(boxes) + 1, TOKENS))
    for place in range(len(boxes) + 1):
        tokens[0, place, place % 2] = 1
    return Targets(padded, tokens, (len(boxes),))


def _positive(targets: Targets) -> Tensor:
    """(20, 3) bool: where a higher logit lowers the loss."""
    logits = torch.full((1, 20, TOKENS), -3.0, requires_grad=True)
    dense_loss(logits, MASK, LEVELS, targets, 0.25).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    return logits.grad[0] < 0


def test_an_image_without_objects_has_no_positive_position() -> None:
    assert not _positive(_targets()).any()


def test_positions_in_the_middle_of_an_object_are_asked_for_its_words() -> None:
    positive = _positive(_targets([0.375, 0.125, 0.25, 0.25]))  # the second position of the first row
    assert positive.nonzero().tolist() == [[1, 0]]
    whole = _positive(_targets([0.5, 0.5, 1.0, 1.0]))
    assert whole[:16, 0].view(4, 4).nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_where_boxes_overlap_the_smaller_one_has_the_position() -> None:
    positive = _positive(_targets([0.5, 0.5, 1.0, 1.0], [0.375, 0.375, 0.25, 0.25]))
    assert positive[5].tolist() == [False, True, False]
    assert positive[6].tolist() == [True, False, False]


def test_padding_of_the_text_costs_nothing() -> None:
    logits = torch.zeros((1, 20, TOKENS))
    targets = _targets([0.5, 0.5, 1.0, 1.0])
    before = dense_loss(logits, MASK, LEVELS, targets, 0.25)
    logits[..., 2] = 50.0
    assert dense_loss(logits, MASK, LEVELS, targets, 0.25).item() == pytest.approx(before.item())


def test_the_head_starts_at_one_percent() -> None:
    head = DenseHead(8)
    torch.nn.init.zeros_(head.project.weight)
    torch.nn.init.zeros_(head.project.bias)
    probability = head(torch.randn(1, 20, 8), torch.randn(1, 3, 8)).sigmoid()
    assert probability.shape == (1, 20, 3)
    assert probability.max().item() == pytest.approx(0.01, abs=1e-6)
    assert math.isfinite(probability.sum().item())
