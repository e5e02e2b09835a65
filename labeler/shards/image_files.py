"""Read a frozen group of image files, many at a time, in order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial

from labeler import storage
from labeler.ahead import Fetch, in_order
from labeler.errors import InputChanged
from labeler.shards.fetching import fetch, held
from labeler.shards.neighbors import require_neighbors
from labeler.shards.units import Item, Member, Placed, Shard, Skip, UnitCutter, too_large
from labeler.storage.failures import ARCHIVED, INVALID

_OWN = (ARCHIVED, INVALID, storage.NOT_REGULAR)  # reasons that say nothing of other images
CHANGED = "changed since it was planned"


def read_group(
    shard: Shard, cutter: UnitCutter, *, keep: Sequence[str], skip: Skip, max_image_bytes: int
) -> Generator[Placed, None, None]:
    """Yield every member, in order; one that vanished, is forbidden or has changed becomes an item with an error.

    Raises:
        StorageError: if not one image, but the input seems to be gone (`neighbors`).
    """
    if shard.members is None:
        raise ValueError(f"shard {shard.shard_id} is a group of image files: load its members first")
    yield from in_order(_jobs(shard, shard.members, cutter, dict.fromkeys(keep), skip, max_image_bytes), held=held)


def _jobs(
    shard: Shard,
    members: Sequence[Member],
    cutter: UnitCutter,
    nothing: dict[str, str | None],
    skip: Skip,
    max_image_bytes: int,
) -> Iterator[Fetch[Placed] | Placed]:
    still_there = partial(require_neighbors, members, root=shard.uri)
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
            yield Fetch(size, partial(_fetch, unit, item, member, max_image_bytes, still_there))


def _fetch(unit: int, item: Item, member: Member, max_image_bytes: int, still_there: Callable[[int], None]) -> Placed:
    try:
        found = fetch(item, size=member.size, etag=member.etag, max_bytes=max_image_bytes)
        if found.data is None and found.length is None and found.error not in _OWN:
            still_there(item.index)
        return Placed(unit, found)
    except InputChanged:  # an image of its own: unlike in a tar, nothing else is in question
        return Placed(unit, Item(item.key, item.index, item.uri, 0, None, None, CHANGED, item.kept))
