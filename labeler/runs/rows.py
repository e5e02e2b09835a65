"""The rows of a run, read back in plan order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from labeler import storage
from labeler.records import parquet_to_table
from labeler.runs import layout
from labeler.runs.manifest import Run
from labeler.runs.plan import PlannedShard
from labeler.runs.progress import NOTHING, Progress

PREFETCH_FILES = 32  # unit files in flight: enough to hide ~20 ms a request, and a few MB of memory


def read_tables(
    run: Run, plan: Sequence[PlannedShard], progress: Progress, *, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """One table per committed unit, in key order (shard id, index); memory holds only a few units at a time."""
    wanted = (
        layout.unit_file(p.shard_id, unit) for p in plan for unit in sorted(progress.units.get(p.shard_id, NOTHING))
    )

    def load(relative: str) -> pa.Table:
        return parquet_to_table(storage.read_bytes(run.path(relative)), columns)

    with ThreadPoolExecutor(PREFETCH_FILES) as pool:
        waiting = []
        for relative in wanted:
            waiting.append(pool.submit(load, relative))
            if len(waiting) >= PREFETCH_FILES:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
