"""How many images an input has: as planned where the plan knows, else from the headers of a few tars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labeler.config import Config
from labeler.runs.plan import PlannedShard
from labeler.shards import ShardEnd
from labeler.trial.sample import read_shard, spread_over

COUNTED_SHARDS = 5
_EACH = 256  # images of a unit; it changes nothing here
MOST_BYTES = 8 << 30  # of the shards whose headers are read: a few large tars say as much as many small ones


@dataclass(frozen=True)
class Count:
    """Images of an input.

    Attributes:
        exact: the plan knows them all.
        shards: whose headers were read to find out; 0 where the plan knows.
    """

    images: int
    exact: bool
    shards: int = 0


def count_images(config: Config, plan: Sequence[PlannedShard]) -> Count:
    """Count the images of a plan; where shards are not known, by images per byte of a few that are read through.

    Only headers are read: the bytes of the images are skipped where the storage can.

    Raises:
        LabelerError: a shard cannot be read.
    """
    known = sum(planned.images or 0 for planned in plan)
    unknown = [planned for planned in plan if planned.images is None]
    if not unknown:
        return Count(known, exact=True)
    images = size = shards = 0
    for planned in spread_over(unknown, COUNTED_SHARDS):
        if shards and size > MOST_BYTES:
            break
        for read in read_shard(config, planned.shard, max_images=_EACH, skip=lambda unit: True):
            images += read.images if isinstance(read, ShardEnd) else 0
        size += max(1, planned.shard.size or 0)
        shards += 1
    rest = sum(max(1, planned.shard.size or 0) for planned in unknown)
    return Count(known + round(rest * images / size), exact=shards == len(unknown), shards=shards)
