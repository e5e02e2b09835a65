"""When a run's images were committed: stamped into each unit's file by who labeled it, drawn as bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

METADATA_KEY = "committed_at"  # of a unit file: seconds since 1970, by the worker's clock
_BARS = 96


def stamp(moment: float) -> dict[str, str]:
    """A moment as a unit file's metadata."""
    return {METADATA_KEY: f"{moment:.3f}"}


def committed_at(metadata: Mapping[bytes, bytes] | None) -> float | None:
    """Return when a unit file was written; None where an earlier version did not say."""
    try:
        moment = float((metadata or {})[METADATA_KEY.encode()])
    except (KeyError, ValueError):
        return None
    return moment if math.isfinite(moment) else None


def timeline(commits: Sequence[tuple[float, int]]) -> dict[str, Any] | None:
    """Images committed in each of equal spans of time: {start, seconds, images: [...]}; None for less than a second.

    Args:
        commits: (seconds since 1970, images) of each unit, by time.
    """
    if not commits or commits[-1][0] - commits[0][0] < 1:
        return None
    start = commits[0][0]
    bars = min(_BARS, len(commits))
    seconds = (commits[-1][0] - start) / bars
    images = [0] * bars
    for moment, count in commits:
        images[min(bars - 1, int((moment - start) / seconds))] += count
    return {"start": start, "seconds": seconds, "images": images}
