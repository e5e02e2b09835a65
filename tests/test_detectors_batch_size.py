"""The number of pairs per forward, found by trial."""

from __future__ import annotations

import pytest
import torch

from labeler.detectors import GroundingDino
from labeler.detectors.batch_size import find_pairs


def device(*, overhead: float, memory: int, slows_at: int = 10**9):
    """A device on which a pair takes a second, a forward some more, and which runs out of memory."""

    def seconds_of(pairs: int) -> float:
        if pairs > memory:
            raise torch.OutOfMemoryError("no memory left")
        return overhead + pairs * (1.0 if pairs < slows_at else 2.0)

    return seconds_of


@pytest.mark.parametrize(
    ("overhead", "memory", "slows_at", "expected"),
    [
        (0.0, 99, 10**9, 1),  # nothing is gained by more
        (1.0, 99, 10**9, 32),  # 64 would be 1.5% faster than 32
        (100.0, 99, 10**9, 64),  # the most
        (100.0, 20, 10**9, 8),  # 16 fits, 32 does not: a larger image has to fit, too
        (100.0, 1, 10**9, 1),
        (1.0, 99, 4, 2),  # 4 are slower
    ],
)
def test_it_doubles_while_that_pays_and_fits(overhead: float, memory: int, slows_at: int, expected: int) -> None:
    assert find_pairs(device(overhead=overhead, memory=memory, slows_at=slows_at)) == expected


def test_one_pair_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        find_pairs(device(overhead=1.0, memory=0))


def test_the_trial_runs_the_detector_s_own_forward(checkpoint) -> None:
    detector = GroundingDino(checkpoint, ["cat", "dog"], device="cpu", threads=1)
    assert detector.pairs_per_batch == 1
    assert 0 < detector._seconds_of(1) < 60
    assert 0 < detector._seconds_of(3) < 60
