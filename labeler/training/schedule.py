"""The learning rate over a job that ends by steps or wall-clock time."""

from __future__ import annotations

import math


def progress(step: int, steps: int, seconds: float, max_seconds: float | None) -> float:
    """Return how much of the job is done, 0 to 1: by steps or by time, whichever is further."""
    by_time = seconds / max_seconds if max_seconds else 0.0
    return min(1.0, max(step / steps, by_time))


def lr_factor(step: int, done: float, *, warmup_steps: int, final_factor: float) -> float:
    """Linear warm-up times half a cosine from 1 down to `final_factor`.

    Args:
        step: counted from where the warm-up begins.
        done: what `progress` says.
    """
    warm = min(1.0, (step + 1) / (warmup_steps + 1))
    return warm * (final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * done)))
