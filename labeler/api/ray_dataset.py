"""A run's rows as a Ray Dataset: each unit file is read by a task of Ray's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray.data

from labeler import storage
from labeler.labels.records import schema
from labeler.runs import read_unit_file

if TYPE_CHECKING:
    from labeler.api.labeled_run import LabeledRun, ShownRows


def dataset_of(run: LabeledRun, columns: Sequence[str] | None = None) -> Any:
    """Return the rows of a run as a Ray Dataset, a row per image.

    Args:
        columns: what is read; None for all.

    Raises:
        Refused: the run has no such column.
    """
    shown, snapshot = run.shown(columns), run.snapshot
    whole = schema(run.run.keep, run.run.columns)
    units = [
        {"uri": snapshot.progress.unit_uri(*unit), "prefix": snapshot.prefixes[unit[0]]}
        for unit in snapshot.unit_keys()
    ]
    if not units:
        return ray.data.from_arrow(whole.empty_table().select(columns or whole.names))
    read = _ReadUnit(shown, run.run.s3_rules())
    return ray.data.from_items(units).map_batches(read, batch_size=1, batch_format="pyarrow", zero_copy_batch=True)


@dataclass(frozen=True)
class _ReadUnit:
    """A picklable reader of the unit files of a batch."""

    shown: ShownRows
    s3: storage.S3Rules

    def __call__(self, batch: pa.Table) -> pa.Table:
        self.s3.apply()
        tables = [
            self.shown.of(read_unit_file(unit["uri"], self.shown.read), unit["prefix"]) for unit in batch.to_pylist()
        ]
        return pa.concat_tables(tables)
