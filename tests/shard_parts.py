"""Shards to read, and what is read of them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from labeler import storage
from labeler.shards import Item, Shard, ShardEnd, Unit, read_units


def shard_of(path: Path, data: bytes | None = None, **options: Any) -> Shard:
    if data is not None:
        path.write_bytes(data)
    info = storage.head(str(path))
    assert info is not None
    return Shard("000000", info.uri, info.size, info.etag, "webdataset", **options)


def read(shard: Shard, skipped: Collection[int] = (), **options: Any) -> tuple[list[Unit], ShardEnd]:
    *units, end = read_units(shard, skip=lambda unit: unit in skipped, **options)
    assert isinstance(end, ShardEnd)
    assert all(isinstance(unit, Unit) and unit.items for unit in units)
    return [unit for unit in units if isinstance(unit, Unit)], end


def items_of(shard: Shard, **options: Any) -> list[Item]:
    units, end = read(shard, **options)
    items = [item for unit in units for item in unit.items]
    assert [item.index for item in items] == list(range(end.images))
    assert [unit.unit for unit in units] == list(range(end.units))
    return items
