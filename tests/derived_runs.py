"""Derived runs by the real writer, without a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from labeler.labels.records import Row, rows_to_table, table_to_parquet
from labeler.runs import Run, layout
from labeler.runs.create import NewRun, create_run


def derive(parent: Run, folder: Path, units: Mapping[tuple[int, int], Sequence[Row]], *, whole: bool = False) -> Run:
    """A run that redid these units of its parent, by (shard, unit); if `whole`, these are all."""
    chosen: dict[str, dict[int, int]] = {}
    for (shard, number), rows in units.items():
        chosen.setdefault(f"{shard:06d}", {})[number] = len(rows)
    made = parent.manifest
    fields = {**made.fingerprint_fields, "parent": made.run_id}
    redone = {"whole": True} if whole else {"selection": chosen}
    new = NewRun(fields, made.config, {}, parent.vocabulary(), parent.prompts(), parent=parent, **redone)
    run = create_run(str(folder), new)
    for (shard, number), rows in units.items():
        path = folder / layout.unit_file(f"{shard:06d}", number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(table_to_parquet(rows_to_table(rows, parent.keep), {}))
    return run
