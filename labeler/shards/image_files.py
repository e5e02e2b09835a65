"""Read a frozen group of image files, many at a time, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from labeler.errors import InputChanged
from labeler.shards.fetching import Job, fetch, in_order
from labeler.shards.units import Item, Member, Placed, Shard, Skip, UnitCutter, too_large

CHANGED = "changed since it was planned"


def read_group(
    shard: Shard, cutter: UnitCutter, *, keep: Sequence[str], skip: Skip, max_image_bytes: int
) -> Iterator[Placed]:
    """Every member, in order; one that vanished, is forbidden or has changed becomes an item with an error."""
    if shard.members is None:
        raise ValueError(f"shard {shard.shard_id} is a group of image files: load its members first")
    yield from in_order(_jobs(shard.members, cutter, dict.fromkeys(keep), skip, max_image_bytes))


def _jobs(
    members: Sequence[Member], cutter: UnitCutter, nothing: dict[str, str | None], skip: Skip, max_image_bytes: int
) -> Iterator[Job | Placed]:
    for index, member in enumerate(members):
        size = member.size or 0
        unit = cutter.place(size)
        if skip(unit):
            yield Placed(unit, None)
            continue
        item = Item(member.key, index, member.uri, 0, member.size, None, None, nothing)
        if size > max_image_bytes:
            error = too_large(size, max_image_bytes)
            yield Placed(unit, Item(member.key, index, member.uri, 0, size, None, error, nothing))
        else:
            yield Job(size, partial(_fetch, unit, item, member, max_image_bytes))


def _fetch(unit: int, item: Item, member: Member, max_image_bytes: int) -> Placed:
    try:
        return Placed(unit, fetch(item, size=member.size, etag=member.etag, max_bytes=max_image_bytes))
    except InputChanged:  # an image of its own: unlike in a tar, nothing else is in question
        return Placed(unit, Item(item.key, item.index, item.uri, 0, None, None, CHANGED, item.kept))
