"""Add up the rows of many units, on all cores where there are enough of them to be worth it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from labeler.processes import Processes, affordable_processes
from labeler.runs.erasure.excluded import Excluded
from labeler.runs.snapshot import Snapshot, stretches
from labeler.runs.sums import SUMMED_COLUMNS, UnitSums, sums_of

WORTH_PROCESSES = 4000  # units; starting processes takes as long as some hundreds
UNITS_PER_TASK = 500  # about


class UnitCount(NamedTuple):
    """Sums of one unit, and how many of its images are to be forgotten."""

    shard_id: str
    unit: int
    sums: UnitSums
    to_forget: int


def processes_for(units: int, *, together: int = 0) -> int:
    """Return how many processes that many units are worth; `together` as `affordable_processes` has it."""
    return 1 if units < WORTH_PROCESSES else affordable_processes(together)


def sum_units(snapshot: Snapshot, excluded: Excluded, *, processes: int | None = None) -> Iterator[UnitCount]:
    """Read and add up the rows of every unit of a snapshot.

    Args:
        processes: that share the work; None: one for each CPU, from WORTH_PROCESSES units on.

    Raises:
        StorageError: a unit file is damaged, or cannot be read.
    """
    if processes is None:
        processes = processes_for(snapshot.progress.committed_units)
    if processes == 1:
        yield from _sum(snapshot, excluded)
        return
    with Processes(excluded, processes) as pool:
        for counts in pool.map(_sum_stretch, stretches(snapshot, UNITS_PER_TASK)):
            yield from counts


def _sum_stretch(excluded: Excluded, stretch: Snapshot) -> list[UnitCount]:
    return list(_sum(stretch, excluded))


def _sum(snapshot: Snapshot, excluded: Excluded) -> Iterator[UnitCount]:
    cap, prefixes = snapshot.run.manifest.config["detect"]["max_detections"], snapshot.prefixes
    columns = (*SUMMED_COLUMNS, *(("image_key", "digest") if len(excluded) else ()))
    for (shard_id, unit), table in snapshot.units(columns):
        to_forget = int(excluded.of_rows(table, prefixes[shard_id]).sum())
        yield UnitCount(shard_id, unit, sums_of(table, cap), to_forget)
