"""Find the shards under a URI, and stream units of images out of one."""

from __future__ import annotations

from labeler.shards.find import find_shards
from labeler.shards.reading import READER_VERSION, count_images, read_units
from labeler.shards.units import Item, Member, Shard, ShardEnd, Unit

__all__ = [
    "READER_VERSION",
    "Item",
    "Member",
    "Shard",
    "ShardEnd",
    "Unit",
    "count_images",
    "find_shards",
    "read_units",
]
