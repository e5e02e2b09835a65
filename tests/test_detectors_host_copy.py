"""The host makes detections of one forward pass while the device works on the next."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from labeler.detectors import GroundingDino
from labeler.detectors.host_copy import HostCopy
from labeler.detectors.preprocess import Prepared
from labeler.labeling.forwards import Forwards
from tests.detector_parts import assert_same, photo, three_chunks


@dataclass(frozen=True)
class Image:
    prepared: Prepared


def test_a_forward_is_under_way_before_the_one_before_is_made_detections_of(mm_folder, monkeypatch):
    detector = GroundingDino(mm_folder, three_chunks(mm_folder), threads=1, pairs_per_batch=3)
    batch = [detector.prepare(photo(seed)) for seed in range(3)]
    alone = [detector.detect_prepared([image])[0] for image in batch]
    events: list[str] = []
    for method in ("_start", "_results"):
        call = getattr(detector, method)
        monkeypatch.setattr(detector, method, lambda *given, call=call, m=method: events.append(m) or call(*given))
    forwards = Forwards(detector, threading.Lock())
    found = [*forwards.begin([Image(image) for image in batch]), *forwards.rest()]
    assert [image.prepared for image, _ in found] == batch
    for (_, result), expected in zip(found, alone, strict=True):
        assert_same(result, expected)
    assert events == ["_start", "_start", "_results", "_start", "_results", "_results"]
    events.clear()
    for result, expected in zip(detector.detect_prepared(batch), alone, strict=True):
        assert_same(result, expected)
    assert events == ["_start"] * 3 + ["_results"] * 3


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU"))])  # fmt: skip
def test_a_copy_is_what_the_tensor_was(device):
    tensor = torch.arange(12.0, device=device).view(3, 4)
    np.testing.assert_array_equal(HostCopy(tensor).numpy(), np.arange(12.0).reshape(3, 4))
