"""The number of pairs per forward pass, auto-tuned."""

from __future__ import annotations

import sys

import pytest
import torch

from labeler.config import MOST_PAIRS
from labeler.detectors import GroundingDino, batched, passes
from labeler.detectors.batch_size import MOST_POSITIONS, find_pairs, most_images
from labeler.errors import Refused
from tests.detector_parts import assert_same, photo


def device(*, overhead: float, memory: int, slows_at: int = 10**9):
    """A device on which a pair takes a second, a forward pass takes longer, and memory runs out."""

    def seconds_of(pairs: int) -> float:
        if pairs > memory:
            raise torch.OutOfMemoryError("no memory left")
        return overhead + pairs * (1.0 if pairs < slows_at else 2.0)

    return seconds_of


@pytest.mark.parametrize(
    ("overhead", "memory", "slows_at", "expected"),
    [
        (0.0, 99, 10**9, 1),  # nothing is gained by more
        (0.3, 99, 10**9, 8),  # 16 would be 1.8% faster than 8
        (100.0, 99, 10**9, 32),  # the most
        (100.0, 20, 10**9, 8),  # 16 fits, 32 does not: a larger image has to fit, too
        (100.0, 1, 10**9, 1),
        (1.0, 99, 4, 2),  # 4 are slower
    ],
)
def test_it_doubles_while_that_pays_and_fits(overhead: float, memory: int, slows_at: int, expected: int) -> None:
    assert find_pairs(device(overhead=overhead, memory=memory, slows_at=slows_at)).pairs == expected


def test_what_it_found_is_said_with_both_times() -> None:
    assert str(find_pairs(device(overhead=0.3, memory=99))) == "8 in a forward pass: 1037.5 ms each, 1300.0 ms alone"
    assert str(find_pairs(device(overhead=0.0, memory=99))) == "1 in a forward pass: 1000.0 ms each, 1000.0 ms alone"
    assert (
        str(find_pairs(device(overhead=100.0, memory=20))) == "8 in a forward pass: 13500.0 ms each, 101000.0 ms alone"
    )


def test_one_slow_round_of_five_decides_nothing() -> None:
    calls = []

    def seconds_of(pairs: int) -> float:
        calls.append(pairs)
        return 100.0 + (1e4 if calls.count(pairs) == 2 else 0.0)

    assert find_pairs(seconds_of, 8).pairs == 8


def test_no_more_is_tried_when_the_time_is_over() -> None:
    now = 0.0

    def seconds_of(pairs: int) -> float:
        nonlocal now
        now += 1.0
        return 1.0

    assert find_pairs(seconds_of, clock=lambda: now, until=4.0).pairs == 2  # after two rounds of both
    assert now == 5.0
    now = 0.0
    assert find_pairs(seconds_of, clock=lambda: now, until=0.0).pairs == 1


def test_one_pair_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        find_pairs(device(overhead=1.0, memory=0))


def test_memory_that_ran_out_is_given_back_when_nothing_holds_it_any_more(monkeypatch) -> None:
    """Inside of an `except` the error holds the tensors of what failed, and emptying the cache frees none of them."""
    handled: list[BaseException | None] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: handled.append(sys.exception()))
    assert find_pairs(device(overhead=100.0, memory=20)).pairs == 8
    assert find_pairs(device(overhead=0.0, memory=99)).pairs == 1
    assert handled == [None, None]


def test_a_batch_is_never_larger_than_what_kernels_take(checkpoint) -> None:
    detector = GroundingDino(checkpoint, ["cat", "dog"], device="cpu", threads=1, pairs_per_batch=500)
    assert detector.pairs_per_batch == detector.images_per_forward == MOST_PAIRS == 32


def test_large_images_go_in_fewer_pairs(checkpoint, monkeypatch) -> None:
    """One forward pass never has more positions than 32-bit indices of its widest layer reach."""
    detector = GroundingDino(checkpoint, ["cat", "dog"], device="cpu", threads=1, pairs_per_batch=4)
    batch = [detector.prepare(photo(seed)) for seed in range(4)]
    expected, rows = detector.detect_prepared(batch), []
    detect = detector.network.detect
    monkeypatch.setattr(
        detector.network, "detect", lambda image, text: rows.append(image.features.shape) or detect(image, text)
    )
    detector.detect_prepared(batch)
    (four,) = rows
    assert four[0] == 4
    monkeypatch.setattr(passes, "MOST_POSITIONS", 2 * four[1] + 1)
    found = detector.detect_prepared(batch)
    assert [shape[0] for shape in rows[1:]] == [2, 2]
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    assert MOST_POSITIONS * 2048 <= 2**31


def test_a_model_that_does_not_fit_is_refused_by_name(checkpoint, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "to", full)
        with pytest.raises(Refused, match=r"too little memory to load the model .*Tried to allocate 2.00 GiB\. Give"):
            GroundingDino(checkpoint, ["cat"], device="cpu", threads=1)
    monkeypatch.setattr(batched, "make_network", full)
    with pytest.raises(Refused, match="too little memory to encode the vocabulary"):
        GroundingDino(checkpoint, ["cat"], device="cpu", threads=1)


def test_the_trial_runs_the_detector_s_own_forward(checkpoint) -> None:
    detector = GroundingDino(checkpoint, ["cat", "dog"], device="cpu", threads=1)
    assert detector.pairs_per_batch == 1
    assert 0 < detector._seconds_of(1) < 60
    assert 0 < detector._seconds_of(3) < 60


def test_images_go_together_as_far_as_attention_takes_their_windows(checkpoint, monkeypatch) -> None:
    assert [most_images(*size) for size in ((800, 1333), (1200, 2000), (40, 40), (9000, 9000))] == [32, 21, 32, 1]
    detector = GroundingDino(checkpoint, ["cat"], device="cpu", threads=1, pairs_per_batch=4)
    batch, together = [detector.prepare(photo(seed)) for seed in range(4)], []
    start = detector._start
    monkeypatch.setattr(detector, "_start", lambda images: together.append(len(images)) or start(images))
    monkeypatch.setattr(batched, "most_images", lambda height, width: 3)
    assert len(detector.detect_prepared(batch)) == 4
    assert together == [3, 1]
