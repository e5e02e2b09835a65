"""What the next wave works on: the shards tried least, up to as many units as one Dataset should hold."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from labeler.pipeline.source import ShardWork
from labeler.runs.plan import PlannedShard
from labeler.runs.progress import NOTHING, Progress

CONCURRENT_UNITS = 3  # a worker fetches and commits two units while a third is in the forward pass
SMALL_IMAGE_BYTES = 64 * 1024  # to guess units where no shard is at its end yet: rather too many than too few


@dataclass(frozen=True)
class UnitLimits:
    """The most images and bytes of a unit."""

    images: int
    bytes: int


@dataclass(frozen=True)
class Wave:
    """The shards of one Ray Data dataset."""

    work: Sequence[ShardWork]
    concurrent_units: int


def next_wave(
    plan: Sequence[PlannedShard],
    progress: Progress,
    tried: Counter[str],
    seed: int,
    wave_units: int,
    limits: UnitLimits,
    *,
    careful: bool,
) -> Wave:
    """The least tried shards first, in a seeded order, so that a stopped run is close to a random sample.

    Args:
        wave_units: about how many units still to do, and at least one shard. A wave more loads the model again.
    """
    order = progress.left(plan)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda planned: tried[planned.shard_id])  # stable: keeps the shuffle
    per_byte = _units_per_byte(plan, progress)
    chosen: list[ShardWork] = []
    budget = wave_units
    for planned in order:
        if chosen and budget <= 0:
            break
        work = _work_of(planned, progress)
        budget -= _units_left(work, progress, limits, per_byte)
        tried[planned.shard_id] += 1
        chosen.append(work)
    return Wave(chosen, concurrent_units=1 if careful else CONCURRENT_UNITS)


def _work_of(planned: PlannedShard, progress: Progress) -> ShardWork:
    if pending := progress.pending.get(planned.shard_id):
        return ShardWork(planned, only=pending)
    return ShardWork(planned, done=progress.units.get(planned.shard_id, NOTHING))


def _units_left(work: ShardWork, progress: Progress, limits: UnitLimits, per_byte: float | None) -> int:
    """About how many units are to be read of a shard, 1 or more."""
    if work.only is not None:
        return len(work.only)
    planned = work.planned
    end = progress.ends.get(planned.shard_id)
    units = _guess_units(planned, limits, per_byte) if end is None else end[0]
    return max(1, units - len(work.done))


def _guess_units(planned: PlannedShard, limits: UnitLimits, per_byte: float | None) -> int:
    """Units of a shard that was never read to its end."""
    size = planned.shard.size or 0
    if planned.images is not None:
        return max(planned.images // limits.images, size // limits.bytes) + 1
    if per_byte is not None:
        return math.ceil(size * per_byte)
    return size // min(limits.images * SMALL_IMAGE_BYTES, limits.bytes) + 1


def _units_per_byte(plan: Sequence[PlannedShard], progress: Progress) -> float | None:
    """Of the shards that were read to their ends; None before there is one."""
    ended = [(progress.ends[p.shard_id][0], p.shard.size) for p in plan if p.shard_id in progress.ends and p.shard.size]
    size = sum(size for _, size in ended)
    return sum(units for units, _ in ended) / size if size else None
