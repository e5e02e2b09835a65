"""The rows of a run, read back in plan order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa

from labeler import storage
from labeler.records import parquet_to_table
from labeler.runs.plan import PlannedShard
from labeler.runs.progress import NOTHING, Progress

PREFETCH_FILES = 32  # unit files in flight: enough to hide ~20 ms a request, and a few MB of memory

UnitKey = tuple[str, int]  # shard id, number


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
    data = storage.read_bytes(uri)
    try:
        return parquet_to_table(data, columns)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = (str(error).splitlines() or ["?"])[0]
        raise storage.StorageError(
            f"{storage.redact(uri)} is damaged ({said}); restore it, or delete it and label again: that makes it anew"
        ) from error


def iterate_units(
    plan: Sequence[PlannedShard], progress: Progress, columns: Sequence[str] | None = None
) -> Iterator[tuple[UnitKey, pa.Table]]:
    """Each committed unit's rows, in key order (shard id, index); memory holds only a few units at a time."""

    def load(key: UnitKey) -> tuple[UnitKey, pa.Table]:
        return key, read_unit_file(progress.unit_uri(*key), columns)

    with ThreadPoolExecutor(PREFETCH_FILES) as pool:
        waiting = []
        for key in units_in_order(plan, progress):
            waiting.append(pool.submit(load, key))
            if len(waiting) >= PREFETCH_FILES:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def read_tables(
    plan: Sequence[PlannedShard], progress: Progress, *, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """One table per committed unit, in key order."""
    return (table for _, table in iterate_units(plan, progress, columns))
