"""A seeded sample of the input's images, read without Ray: for preview and for the dry run's timing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from labeler.config import Config
from labeler.errors import Refused
from labeler.runs.plan import PlannedShard
from labeler.shards import Item, Unit, read_units

FIRST_IMAGES = 64  # sample among a shard's first images only, so that a preview never reads whole shards


def sample_items(config: Config, plan: Sequence[PlannedShard], *, images: int) -> list[tuple[str, Item]]:
    """Up to `images` (shard id, item) pairs, spread over as many shards as possible; the seed is `ray.seed`.

    Images are drawn from the first ones of each shard, so that only the beginning of a shard is downloaded.
    """
    rng = random.Random(config.ray.seed)
    shards = list(plan)
    rng.shuffle(shards)
    chosen: list[tuple[str, Item]] = []
    while shards and len(chosen) < images:
        here, shards = shards[: images - len(chosen)], shards[images - len(chosen) :]
        each = -(-(images - len(chosen)) // len(here))
        for planned in here:
            wanted = min(each, images - len(chosen))
            items = _first_items(config, planned)
            chosen += [(planned.shard_id, item) for item in rng.sample(items, min(wanted, len(items)))]
    if not chosen:
        raise Refused("the input has shards but no image in them")
    return chosen


def _first_items(config: Config, planned: PlannedShard) -> list[Item]:
    limit = min(planned.shard.max_images or FIRST_IMAGES, FIRST_IMAGES)
    unit = config.unit
    for work in read_units(
        replace(planned.shard, max_images=limit),
        max_images=limit,
        max_bytes=unit.max_bytes,
        max_image_bytes=unit.max_image_bytes,
        keep=config.input.keep,
        image_column=config.input.image_column,
        skip=lambda unit: unit > 0,
    ):
        if isinstance(work, Unit):
            return list(work.items)
    return []
