"""Time on a device, which continues working while the host is told that it was asked to, and what is faster on it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

Clock = Callable[[], float]

ROUNDS = 5


def seconds_on(device: torch.device) -> Clock:
    """Return a clock that is read when the device has done all that it was asked to do."""

    def read() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def timed(way: Callable[[], object], clock: Clock) -> float:
    """Return seconds that one call takes."""
    start = clock()
    way()
    return clock() - start


def medians_in_turns(
    measures: Sequence[Callable[[], float]], clock: Clock, until: float, *, rounds: int = ROUNDS
) -> tuple[list[float], int]:
    """Return each measure's median, and how many rounds were made: all of them in each, so that noise meets all alike.

    Args:
        measures: each does something, and returns the seconds that it took.
        until: wall-clock time; no round begins later, but one is always made.
    """
    taken: list[list[float]] = []
    while len(taken) < rounds and (not taken or clock() < until):
        taken.append([measure() for measure in measures])
    return [statistics.median(each) for each in zip(*taken, strict=True)], len(taken)
