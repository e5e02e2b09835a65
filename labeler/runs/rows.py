"""The rows of a run, read back in plan order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa

from labeler import storage
from labeler.ahead import Fetch, in_order
from labeler.labels.records import UnitExtent, parquet_to_table, unit_extent
from labeler.runs import layout
from labeler.runs.plan import PlannedShard, undamaged
from labeler.runs.progress import NOTHING, Progress

PREFETCH_FILES = 32  # unit files in flight: enough to hide ~20 ms a request, and a few MB of memory

UnitKey = tuple[str, int]  # shard id, number
_Loaded = tuple[UnitKey, pa.Table, range]


def units_in_order(plan: Sequence[PlannedShard], progress: Progress) -> list[UnitKey]:
    """The committed units, in key order."""
    return [(p.shard_id, unit) for p in plan for unit in sorted(progress.units.get(p.shard_id, NOTHING))]


def only_units(progress: Progress, wanted: Iterable[UnitKey]) -> Progress:
    """As if no other units than these were committed."""
    numbers: dict[str, set[int]] = {}
    for shard_id, unit in wanted:
        numbers.setdefault(shard_id, set()).add(unit)
    return replace(progress, units={shard_id: frozenset(found) for shard_id, found in numbers.items()})


def read_unit_file(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of one unit file: all columns, or the named ones.

    Raises:
        StorageError: it cannot be read, or is damaged.
    """
    return _read(uri, columns)[0]


def _read(uri: str, columns: Sequence[str] | None = None) -> tuple[pa.Table, range]:
    """(rows of a unit file, their indices in the shard)."""
    data = storage.read_bytes(uri)
    with undamaged(uri, "restore it, or delete it and label again: that makes it again"):
        table, extent = parquet_to_table(data, columns), unit_extent(data)
    _require_place(uri, extent)
    return table, extent.indices


def _require_place(uri: str, extent: UnitExtent) -> None:
    """The rows must be of the shard and unit that the path says: a copied file would double some images."""
    match = layout.UNIT_FILE.search(uri)
    if match and (extent.shard_ids != {match[1]} or extent.indices.start < int(match[2])):
        raise _misplaced(uri, f"it has rows of shard {min(extent.shard_ids)} from index {extent.indices.start} on")


def _misplaced(uri: str, why: str) -> storage.StorageError:
    return storage.StorageError(
        f"{storage.redact(uri)} is not the unit of its name ({why}); remove the file and run the label command again"
    )


def iterate_units(
    plan: Sequence[PlannedShard], progress: Progress, columns: Sequence[str] | None = None
) -> Iterator[tuple[UnitKey, pa.Table]]:
    """Each committed unit's rows, in key order (shard id, index); memory holds only a few units at a time.

    Raises:
        StorageError: if a file cannot be read, is damaged, or does not follow the units before it.
    """

    def load(key: UnitKey) -> _Loaded:
        return key, *_read(progress.unit_uri(*key), columns)

    before: UnitKey | None = None
    next_index = 0
    jobs: Iterable[Fetch[_Loaded] | _Loaded] = (Fetch(0, partial(load, key)) for key in units_in_order(plan, progress))
    for key, table, indices in in_order(jobs, in_flight=PREFETCH_FILES):
        shard_id, unit = key
        follows = before is not None and before[0] == shard_id
        start = next_index if follows else 0
        is_next = unit == (before[1] + 1 if follows and before is not None else 0)
        if indices.start < start or (is_next and indices.start != start):
            raise _misplaced(progress.unit_uri(*key), f"it begins with index {indices.start}, not {start}")
        before, next_index = key, indices.stop
        yield key, table
