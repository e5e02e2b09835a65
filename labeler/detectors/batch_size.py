"""How many (image, chunk) pairs go through one forward: found by trial, because memory and speed of GPUs differ."""

from __future__ import annotations

from collections.abc import Callable

import torch

MOST_PAIRS = 32
_MOST_WINDOWS, _WINDOW = 65_535, 28  # of Swin in one attention, as many as a GPU's grid takes; pixels of a side of one
MOST_POSITIONS = 2**31 // 2048  # of all pairs: beyond it, feed-forwards (2048 wide) pass the range of 32-bit indices
_WORTH_IT = 1.03  # a doubled batch has to be this much faster per pair, for the memory it takes


def find_pairs(seconds_of: Callable[[int], float], most: int = MOST_PAIRS) -> int:
    """The number of pairs to run at once: doubled while that is faster and the memory holds.

    Args:
        seconds_of: runs this number of pairs and returns the seconds it took; may raise torch.OutOfMemoryError.
    """
    best, pace = 1, seconds_of(1)  # seconds per pair
    pairs = 2
    try:
        while pairs <= most:
            seconds = _seconds_if_it_fits(seconds_of, pairs)
            if seconds is None:
                return max(1, best // 2)  # leave room for larger images
            if seconds / pairs * _WORTH_IT > pace:
                return best
            best, pace = pairs, seconds / pairs
            pairs *= 2
        return best
    finally:
        torch.cuda.empty_cache()  # what the largest trial took is not kept from other workers on this GPU


def _seconds_if_it_fits(seconds_of: Callable[[int], float], pairs: int) -> float | None:
    """None where memory runs out. The error, which holds the memory of what failed, is gone on return."""
    try:
        return seconds_of(pairs)
    except torch.OutOfMemoryError:
        return None


def most_images(height: int, width: int) -> int:
    """How many images of this size may go through the backbone at once, whatever the memory."""
    windows = -(-height // _WINDOW) * -(-width // _WINDOW)
    return max(1, min(MOST_PAIRS, _MOST_WINDOWS // windows))
