"""How many (image, chunk) pairs go through one forward pass: found by trial, because memory and
speed of GPUs differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from labeler.config import MOST_PAIRS
from labeler.detectors.clock import Clock, medians_in_turns

_MOST_WINDOWS, _WINDOW = 65_535, 28  # of Swin in one attention, as many as a GPU's grid takes; pixels of a side of one
# of all pairs: beyond it, feed-forward layers (2048 wide) pass the range of 32-bit indices
MOST_POSITIONS = 2**31 // 2048
_WORTH_IT = 1.03  # a doubled batch has to be this much faster per pair, for the memory it takes


@dataclass(frozen=True)
class Pairs:
    """The number of pairs to run at once, and why.

    Attributes:
        pace, alone: seconds a pair, that many at once and one by one.
    """

    pairs: int
    pace: float
    alone: float

    def __str__(self) -> str:
        return f"{self.pairs} in a forward pass: {1000 * self.pace:.1f} ms each, {1000 * self.alone:.1f} ms alone"


def find_pairs(
    seconds_of: Callable[[int], float],
    most: int = MOST_PAIRS,
    *,
    clock: Clock = time.perf_counter,
    until: float = math.inf,
) -> Pairs:
    """Return the number of pairs to run at once: doubled while that is faster and the memory holds.

    Args:
        seconds_of: runs this number of pairs and returns the seconds it took; may raise torch.OutOfMemoryError.
        until: wall-clock time; after it nothing more is tried.
    """
    alone = seconds_of(1)
    found = [Pairs(1, alone, alone)]
    try:
        while 2 * found[-1].pairs <= most and clock() < until:
            best = found[-1]
            paces = _if_it_fits(seconds_of, best.pairs, clock, until)
            if paces is None:
                return found[-2] if len(found) > 1 else best  # leave room for larger images
            pace, doubled = paces
            if best.pairs == 1:
                alone, found = pace, [Pairs(1, pace, pace)]
            if doubled * _WORTH_IT > pace:
                break
            found.append(Pairs(2 * best.pairs, doubled, alone))
        return found[-1]
    finally:
        torch.cuda.empty_cache()  # what the largest trial took is not kept from other workers on this GPU


def _if_it_fits(
    seconds_of: Callable[[int], float], pairs: int, clock: Clock, until: float
) -> tuple[float, float] | None:
    """Return median seconds a pair of that many and of twice as many, None where memory runs out.

    The error, which holds the memory of what failed, is gone on return.
    """
    try:
        measures = [partial(seconds_of, each) for each in (2 * pairs, pairs)]
        (doubled, single), _ = medians_in_turns(measures, clock, until)
    except torch.OutOfMemoryError:
        return None
    return single / pairs, doubled / (2 * pairs)


def most_images(height: int, width: int) -> int:
    """Return how many images of this size may go through the backbone at once, whatever the memory."""
    windows = -(-height // _WINDOW) * -(-width // _WINDOW)
    return max(1, min(MOST_PAIRS, _MOST_WINDOWS // windows))
