"""A seeded sample of the input's images, read without Ray: for preview, and for timing a few."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from labeler import storage
from labeler.config import Config
from labeler.errors import LabelerError, Refused
from labeler.runs.erasure.excluded import Excluded, load_excluded, read_excluded
from labeler.runs.manifest import open_run
from labeler.runs.plan import PlannedShard, file_name_prefix
from labeler.shards import Item, Shard, ShardEnd, Unit, read_units, skipped
from labeler.shards.units import Skip

LOOKED_AT = 20  # shards, before an input is held to have no image
SAMPLED_TARS = 5
FIRST_IMAGES = 64  # sample among a shard's first images only, so that a preview never reads whole shards


def sample_items(config: Config, plan: Sequence[PlannedShard], *, images: int) -> list[tuple[str, Item]]:
    """Up to `images` (shard id, item) pairs, spread over as many shards as possible; the seed is `ray.seed`.

    Images are drawn from the first ones of each shard, so that only the beginning of a shard is downloaded. What is
    excluded from labeling is skipped.

    Raises:
        Refused: no image is left, or a list of what to exclude cannot be read.
    """
    excluded = _excluded(config)
    rng = random.Random(config.ray.seed)
    shards = list(plan)
    rng.shuffle(shards)
    chosen: list[tuple[str, Item]] = []
    while shards and len(chosen) < images:
        here, shards = shards[: images - len(chosen)], shards[images - len(chosen) :]
        each = -(-(images - len(chosen)) // len(here))
        for planned in here:
            wanted = min(each, images - len(chosen))
            items = _first_items(config, planned, excluded)
            chosen += [(planned.shard_id, item) for item in rng.sample(items, min(wanted, len(items)))]
    if not chosen:
        raise _no_image(excluded)
    return chosen


def first_items(config: Config, plan: Sequence[PlannedShard], *, images: int) -> list[tuple[str, Item]]:
    """Return the first `images` (shard id, item) pairs of as few shards as possible, and nothing read beyond them.

    Read as a worker does, so that what reading costs can be measured; which shards is up to the seed `ray.seed`. What
    is excluded from labeling is read, since its bytes may be what excludes it, and skipped.

    Raises:
        Refused: no image is left, or a list of what to exclude cannot be read.
    """
    excluded = _excluded(config)
    shards = list(plan)
    random.Random(config.ray.seed).shuffle(shards)
    chosen: list[tuple[str, Item]] = []
    for planned in shards:
        if len(chosen) == images:
            break
        items = _first_items(config, planned, excluded, images - len(chosen))
        chosen += [(planned.shard_id, item) for item in items]
    if not chosen:
        raise _no_image(excluded)
    return chosen


def wanted_items(
    config: Config, plan: Sequence[PlannedShard], wanted: Callable[[str], bool], *, images: int
) -> list[tuple[PlannedShard, Item]]:
    """Up to `images` (shard, item) pairs of images whose file names are wanted, spread over shards as `sample_items`.

    Of image files only wanted ones are read; tars and Parquet files are read until enough of theirs are found.

    Returns:
        Nothing, if LOOKED_AT shards have been looked through and there was none.

    Raises:
        Refused: a list of what to exclude cannot be read.
    """
    excluded = _excluded(config)
    rng = random.Random(config.ray.seed)
    shards = list(plan)
    rng.shuffle(shards)
    chosen: list[tuple[PlannedShard, Item]] = []
    looked_at = 0
    while shards and len(chosen) < images and (chosen or looked_at < LOOKED_AT):
        here, shards = shards[: images - len(chosen)], shards[images - len(chosen) :]
        each = -(-(images - len(chosen)) // len(here))
        for planned in here:
            items = _wanted_in(config, planned, excluded, wanted, max(each, FIRST_IMAGES), rng)
            some = rng.sample(items, min(each, images - len(chosen), len(items)))
            chosen += [(planned, item) for item in some]
            looked_at += 1
            if not chosen and looked_at == LOOKED_AT:
                break
    return chosen


def some_items(config: Config, plan: Sequence[PlannedShard], *, shards: int, each: int) -> list[Item]:
    """Return the first `each` images of up to `shards` shards, spread over the plan; what is excluded is excluded."""
    excluded = _excluded(config)
    chosen = spread_over(plan, shards)
    return [item for planned in chosen for item in _first_items(config, planned, excluded, each)]


def require_images(config: Config, plan: Sequence[PlannedShard]) -> None:
    """Refuse an input that seems to hold no image, by reading through at most LOOKED_AT of its shards.

    A shard that cannot be read now may hold images: that is found out, and named, when its turn comes.

    Raises:
        Refused: if those shards have been read to their ends and there was none.
    """
    counts, problem = Counter[str](), ""
    looked_at = spread_over(plan, LOOKED_AT)
    for planned in looked_at:
        if planned.images:
            return
        try:
            for read in read_shard(config, planned.shard, max_images=1, skip=lambda unit: False):
                if isinstance(read, ShardEnd):
                    counts.update(read.skipped)
                elif read.items[0].error is None:
                    return
                else:
                    problem = problem or f"{storage.redact(planned.shard.uri)}: {read.items[0].error}"
        except LabelerError:
            return
    held = f"; they hold {skipped.describe(counts)}" if counts else ""
    raise Refused(
        f"no image in the input: {len(looked_at):,} of {len(plan):,} shards were read to their ends{held}"
        + (f" ({problem})" if problem else "")
        + "; check input.uri and input.format"
    )


def skipped_in_sample(config: Config, plan: Sequence[PlannedShard]) -> tuple[Counter[str], int]:
    """Return (what tars hold beside their images, by extension; how many tars), in the first images of a few tars."""
    counts = Counter[str]()
    tars = spread_over([planned for planned in plan if planned.shard.format == "webdataset"], SAMPLED_TARS)
    for planned in tars:
        shard = replace(planned.shard, max_images=min(FIRST_IMAGES, planned.shard.max_images or FIRST_IMAGES))
        for read in read_shard(config, shard, max_images=FIRST_IMAGES, skip=lambda unit: True):
            if isinstance(read, ShardEnd):
                counts.update(read.skipped)
    return counts, len(tars)


def spread_over(plan: Sequence[PlannedShard], most: int) -> list[PlannedShard]:
    """Up to `most` shards, evenly from the whole plan: an input often has folders of different kinds."""
    count = min(most, len(plan))
    return [plan[i * len(plan) // count] for i in range(count)]


def read_shard(config: Config, shard: Shard, *, max_images: int, skip: Skip) -> Iterator[Unit | ShardEnd]:
    unit = config.unit
    return read_units(
        shard,
        max_images=max_images,
        max_bytes=unit.max_bytes,
        max_image_bytes=unit.max_image_bytes,
        keep=config.read_keep,
        image_column=config.input.image_column,
        skip=skip,
    )


def _excluded(config: Config) -> Excluded:
    """Return what `labeler label` would not label: of `input.exclude`, and of the run that is at the output already."""
    excluded = load_excluded(map(storage.absolute_uri, config.input.exclude))
    run = open_run(storage.absolute_uri(config.output.uri))
    return excluded if run is None else excluded | read_excluded(run)


def _no_image(excluded: Excluded) -> Refused:
    if len(excluded):
        return Refused("every image that a sample is drawn from, the first ones of each shard, is excluded")
    return Refused("the input has shards but no image in them")


def _wanted_in(
    config: Config,
    planned: PlannedShard,
    excluded: Excluded,
    wanted: Callable[[str], bool],
    most: int,
    rng: random.Random,
) -> list[Item]:
    """Up to `most` wanted items of a shard: of image files any, of others the first."""
    shard, prefix = planned.shard, file_name_prefix(planned)
    if shard.members is not None:
        named = [member for member in shard.members[: shard.max_images] if wanted(member.key)]
        if not named:
            return []
        shard = replace(shard, members=rng.sample(named, min(most, len(named))), max_images=None)
    found: list[Item] = []
    for work in read_shard(config, shard, max_images=FIRST_IMAGES, skip=lambda unit: False):
        if len(found) >= most or not isinstance(work, Unit):
            break
        left = excluded.without(work, prefix).items
        found += [item for item in left if not item.removed and wanted(prefix + item.key)]
    return found[:most]


def _first_items(config: Config, planned: PlannedShard, excluded: Excluded, most: int = FIRST_IMAGES) -> list[Item]:
    limit = min(planned.shard.max_images or most, most)
    shard = replace(planned.shard, max_images=limit)
    for work in read_shard(config, shard, max_images=limit, skip=lambda unit: unit > 0):
        if isinstance(work, Unit):
            return [item for item in excluded.without(work, file_name_prefix(planned)).items if not item.removed]
    return []
