"""The crop classifier that teaches a new backbone before the detector is trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from labeler.training.crops import CropClassifier, crop_loss, cut
from labeler.training.losses import Targets


def targets(boxes: list[list[list[float]]], ids: list[list[int]]) -> Targets:
    most = max(1, max(map(len, ids)))
    padded = torch.full((len(ids), most, 4), 0.5)
    category_ids = torch.zeros((len(ids), most), dtype=torch.int64)
    for image, (rows, names) in enumerate(zip(boxes, ids, strict=True)):
        if rows:
            padded[image, : len(rows)] = torch.tensor(rows)
            category_ids[image, : len(rows)] = torch.tensor(names)
    return Targets(padded, torch.zeros((len(ids), most, 3)), tuple(map(len, ids)), category_ids)


def test_a_crop_is_the_square_around_the_centre_at_the_image_s_scale() -> None:
    pixels = torch.arange(2 * 3 * 20 * 30, dtype=torch.float32).view(2, 3, 20, 30)
    wanted = targets(
        [[[0.5, 0.5, 0.1, 0.1], [10 / 30, 5 / 20, 0.9, 0.9]], [[20 / 30, 15 / 20, 0.2, 0.2]]], [[7, 9], [3]]
    )
    crops = cut(pixels, wanted, 4)
    assert crops.shape == (3, 3, 4, 4)
    assert torch.equal(crops[0], pixels[0, :, 8:12, 13:17])
    assert torch.equal(crops[1], pixels[0, :, 3:7, 8:12])
    assert torch.equal(crops[2], pixels[1, :, 13:17, 18:22])


def test_outside_of_the_image_a_crop_is_zero() -> None:
    crops = cut(torch.ones(1, 3, 16, 16), targets([[[0.0, 1.0, 0.1, 0.1]]], [[1]]), 8)
    assert torch.equal(crops[0, :, :4, 4:], torch.ones(3, 4, 4))
    assert crops.sum() == 3 * 16


def test_the_loss_is_the_mean_cross_entropy_by_category_id() -> None:
    wanted = targets([[[0.5] * 4] * 2, [[0.5] * 4]], [[30, 10], [20]])
    logits = torch.randn(3, 3)
    loss, right = crop_loss(logits, wanted, torch.tensor([10, 20, 30]))
    expected = nn.functional.cross_entropy(logits, torch.tensor([2, 0, 1]))
    torch.testing.assert_close(loss, expected)
    perfect = torch.eye(3)[[2, 0, 1]] * 20
    assert crop_loss(perfect, wanted, torch.tensor([10, 20, 30]))[1] == 1
    assert crop_loss(-perfect, wanted, torch.tensor([10, 20, 30]))[1] == 0
    assert 0 <= right <= 1


def test_a_batch_without_objects_has_a_loss_of_zero_and_gradients() -> None:
    nothing = targets([[], []], [[], []])
    crops = cut(torch.ones(2, 3, 16, 16), nothing, 8)
    assert crops.shape == (0, 3, 8, 8)
    logits = torch.zeros((0, 3), requires_grad=True)
    loss, _ = crop_loss(logits, nothing, torch.tensor([1, 2, 3]))
    loss.backward()
    assert loss == 0


class Maps(nn.Module):
    """Feature maps that say where they are: channel 0 is 1 in the middle, 100 elsewhere."""

    def forward(self, crops: torch.Tensor) -> object:
        maps = []
        for side in (6, 3, 1):
            features = torch.full((len(crops), 2, side, side), 100.0)
            features[:, :, side // 3 : max(1, side - side // 3), side // 3 : max(1, side - side // 3)] = 1.0
            maps.append(features)
        return type("Output", (), {"feature_maps": maps})


def test_the_classifier_reads_the_middle_of_every_map() -> None:
    classifier = CropClassifier([2, 2, 2], 5)
    got = classifier(Maps(), torch.zeros(4, 3, 48, 48))
    expected = torch.stack([head(torch.ones(4, 2)) for head in classifier.heads]).sum(0)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("side", [16, 48])
def test_it_reads_something_of_any_map(side: int) -> None:
    assert torch.isfinite(CropClassifier([2, 2, 2], 5)(Maps(), torch.zeros(1, 3, side, side))).all()
