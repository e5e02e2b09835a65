"""How many (image, chunk) pairs go through one forward: found by trial, because memory and speed of GPUs differ."""

from __future__ import annotations

from collections.abc import Callable

import torch

MOST_PAIRS = 64
_WORTH_IT = 1.03  # a doubled batch has to be this much faster per pair, for the memory it takes


def find_pairs(seconds_of: Callable[[int], float], most: int = MOST_PAIRS) -> int:
    """The number of pairs to run at once: doubled while that is faster and the memory holds.

    Args:
        seconds_of: runs this number of pairs and returns the seconds it took; may raise torch.OutOfMemoryError.
    """
    best, pace = 1, seconds_of(1)  # seconds per pair
    pairs = 2
    while pairs <= most:
        try:
            seconds = seconds_of(pairs)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return max(1, best // 2) if best == pairs // 2 else best  # leave room for larger images
        if seconds / pairs * _WORTH_IT > pace:
            return best
        best, pace = pairs, seconds / pairs
        pairs *= 2
    return best
