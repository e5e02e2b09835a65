"""The host makes detections of one forward while the device works on the next."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from labeler.detectors import GroundingDino
from labeler.detectors.host_copy import HostCopy, one_ahead
from tests.detector_parts import assert_same, photo, three_chunks


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_one_ahead_gives_all_in_order_with_one_more_drawn(count):
    drawn: list[int] = []

    def items():
        for number in range(count):
            drawn.append(number)
            yield number

    given = []
    for number in one_ahead(items()):
        given.append(number)
        assert len(drawn) == min(number + 2, count)
    assert given == list(range(count))


def test_a_forward_is_under_way_before_the_one_before_is_made_detections_of(mm_folder, monkeypatch):
    detector = GroundingDino(mm_folder, three_chunks(mm_folder), threads=1, pairs_per_batch=3)
    batch = [detector.prepare(photo(seed)) for seed in range(3)]
    alone = [detector.detect_prepared([image])[0] for image in batch]
    events: list[str] = []
    for method in ("_start", "_results"):
        call = getattr(detector, method)
        monkeypatch.setattr(detector, method, lambda argument, call=call, m=method: events.append(m) or call(argument))
    for found, expected in zip(detector.detect_prepared(batch), alone, strict=True):
        assert_same(found, expected)
    assert events == ["_start", "_start", "_results", "_start", "_results", "_results"]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU"))])  # fmt: skip
def test_a_copy_is_what_the_tensor_was(device):
    tensor = torch.arange(12.0, device=device).view(3, 4)
    np.testing.assert_array_equal(HostCopy(tensor).numpy(), np.arange(12.0).reshape(3, 4))
