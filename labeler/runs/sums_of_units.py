"""Add up the rows of many units, on all cores where there are enough of them to be worth it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import pyarrow as pa

from labeler.errors import LabelerError, StorageError
from labeler.machine import available_cpus, die_first, die_with, memory_in_use
from labeler.runs.erasure.excluded import Excluded
from labeler.runs.plan import PlannedShard
from labeler.runs.rows import UnitKey
from labeler.runs.snapshot import Snapshot
from labeler.runs.sums import SUMMED_COLUMNS, UnitSums, sums_of

WORTH_PROCESSES = 4000  # units; starting processes takes as long as some hundreds
_TOGETHER = 500  # units of a task, about
_MOST = 16  # each reads 32 files at once
_BYTES_OF_A_PROCESS = 512 << 20  # 120 MB before its first file

_excluded = Excluded()  # in a process of the pool: loaded once


class UnitCount(NamedTuple):
    """Sums of one unit, and how many of its images are to be forgotten."""

    shard_id: str
    unit: int
    sums: UnitSums
    to_forget: int


def sum_units(snapshot: Snapshot, excluded: Excluded, *, processes: int | None = None) -> Iterator[UnitCount]:
    """Read and add up the rows of every unit of a snapshot.

    Args:
        processes: that share the work; None: one for each CPU, from WORTH_PROCESSES units on.

    Raises:
        StorageError: a unit file is damaged, or cannot be read.
    """
    if processes is None:
        processes = _worth(snapshot.progress.committed_units)
    if processes == 1:
        yield from _sum(snapshot, excluded)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_prepare, initargs=(excluded, os.getpid()))
    parts = _parts(snapshot)
    under_way: deque[tuple[Snapshot, Future[list[UnitCount] | str]]] = deque()
    try:
        for part in parts:
            under_way.append((part, pool.submit(_sum_part, part)))
            if len(under_way) == 2 * processes:
                yield from _found(under_way[0][1])
                under_way.popleft()
        while under_way:
            yield from _found(under_way[0][1])
            under_way.popleft()
    except BrokenProcessPool:  # the kernel ended one for want of memory: this process needs little
        for part in chain((part for part, _ in under_way), parts):
            yield from _sum(part, excluded)
    finally:
        pool.shutdown(cancel_futures=True)


def _worth(units: int) -> int:
    """Processes that that much work is worth, as far as the CPUs and the memory that nobody uses go."""
    if units < WORTH_PROCESSES:
        return 1
    free = min((total - used for used, total in memory_in_use()), default=0)
    return max(1, min(_MOST, int(available_cpus()), free // _BYTES_OF_A_PROCESS))


def _found(future: Future[list[UnitCount] | str]) -> list[UnitCount]:
    found = future.result()
    if isinstance(found, str):
        raise StorageError(found)
    return found


def _parts(snapshot: Snapshot) -> Iterator[Snapshot]:
    """The snapshot in parts of whole shards, each with no more of the run than it needs."""
    plan = {planned.shard_id: planned for planned in snapshot.plan}
    keys: list[UnitKey] = []
    for key in snapshot.unit_keys():
        if len(keys) >= _TOGETHER and key[0] != keys[-1][0]:
            yield _part(snapshot, keys, plan)
            keys = []
        keys.append(key)
    if keys:
        yield _part(snapshot, keys, plan)


def _part(snapshot: Snapshot, keys: list[UnitKey], plan: dict[str, PlannedShard]) -> Snapshot:
    shards = dict.fromkeys(shard_id for shard_id, _ in keys)
    part = snapshot.only(keys)
    folders = tuple(
        (folder, {shard_id: units[shard_id] for shard_id in shards if shard_id in units})
        for folder, units in part.progress.folders
    )
    progress = replace(part.progress, ends={}, folders=folders, pending={}, marker_uris=(), sizes={})
    return replace(part, plan=[plan[shard_id] for shard_id in shards], progress=progress)


def _prepare(excluded: Excluded, parent: int) -> None:
    global _excluded
    _excluded = excluded
    die_with(parent)
    die_first()
    pa.set_cpu_count(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asked ends these


def _sum_part(part: Snapshot) -> list[UnitCount] | str:
    """In a process of the pool: the sums, or what is wrong."""
    try:
        return list(_sum(part, _excluded))
    except LabelerError as error:
        return str(error)


def _sum(snapshot: Snapshot, excluded: Excluded) -> Iterator[UnitCount]:
    cap, prefixes = snapshot.run.manifest.config["detect"]["max_detections"], snapshot.prefixes
    columns = (*SUMMED_COLUMNS, *(("image_key", "digest") if len(excluded) else ()))
    for (shard_id, unit), table in snapshot.units(columns):
        to_forget = int(excluded.of_rows(table, prefixes[shard_id]).sum())
        yield UnitCount(shard_id, unit, sums_of(table, cap), to_forget)
