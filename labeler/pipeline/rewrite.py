"""A derived run whose rows follow from its parent's alone: every unit is written again, and no image is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from labeler import storage
from labeler.labeling.resolve import Job
from labeler.labels.records import LABELED, Row, complete_table, places_of, table_to_parquet, table_to_rows
from labeler.labels.unit_work import UnitWork
from labeler.pipeline.derive import open_derived
from labeler.pipeline.session import Outcome, finish, new_run, refusals
from labeler.runs import Run, Snapshot, UnitKey, layout, read_snapshot, read_unit_file
from labeler.runs.create import create_run
from labeler.runs.erasure.excluded import Excluded, load_excluded, read_excluded, write_excluded
from labeler.runs.receipts import ReceiptLog
from labeler.runs.sums import sums_of
from labeler.runs.timeline import stamp

# Makes the new rows of a unit whose images a detector has seen: as many rows, in their order. Called in threads.
NewRows: TypeAlias = Callable[[UnitKey, Sequence[Row]], Sequence[Row]]

_REDONE = tuple(sorted(LABELED))
_WRITES = 16
# Of a unit file's metadata: what found its boxes.
_ORIGIN = ("model_", "segmenter_", "version_", "engine", "dtype", "device", "pairs", "memory", "cuda_graphs", "jpeg_")


def rewrite(parent: Run, job: Job, new_rows: NewRows, *, before_rows: Callable[[], None] = lambda: None) -> Outcome:
    """Make the derived run with these rows, or continue where that stopped.

    Images that no detector has seen keep their rows; of those that `input.exclude` lists by now, their places stay.

    Args:
        job: its output is the derived run; its fingerprint comes to name the parent, too. With `columns` in its fields
            the rows have these optional columns beside the parent's.
        before_rows: called when all is checked and the run is there, before its first row.

    Raises:
        Refused: the run is incomplete, or the output holds something else.
    """
    with refusals():
        opened = open_derived(parent, job, _REDONE)
        job, output = opened.job, opened.job.config.output
        excluded = load_excluded(map(storage.absolute_uri, job.config.input.exclude))
        run = opened.run
        if run is None:
            storage.check_put_if_absent(output.uri, single_writer=output.single_writer)
            run = create_run(output.uri, new_run(job, parent=parent, whole=True), single_writer=output.single_writer)
        write_excluded(run, excluded)
        before_rows()
        write = _Unit(run, opened.below, new_rows, read_excluded(run), job)
    left = [(id_, unit) for id_, units in read_snapshot(run).progress.pending.items() for unit in sorted(units)]
    receipts = ReceiptLog(run, write.excluded)
    try:
        with ThreadPoolExecutor(_WRITES) as pool:
            for unit, written in zip(left, pool.map(write, left), strict=True):
                if written is not None:
                    receipts.add(*unit, *written)
    finally:
        receipts.flush()
    return finish(read_snapshot(run))


@dataclass(frozen=True)
class _Unit:
    """Writes a unit of the derived run from the rows of `below`."""

    run: Run
    below: Snapshot
    new_rows: NewRows
    excluded: Excluded
    job: Job

    def __call__(self, unit: UnitKey) -> tuple[int, Mapping[str, object]] | None:
        """Return the size and the sums of the file; None if it was there, or its rows are not in order."""
        table = read_unit_file(self.below.progress.unit_uri(*unit))
        listed = pa.array(self.excluded.of_rows(table, self.below.prefixes[unit[0]]), pa.bool_())
        seen = pc.and_not(pc.is_in(table["status"], value_set=pa.array(_REDONE, pa.string())), listed)
        rows = self.new_rows(unit, table_to_rows(table.filter(seen), self.run.keep))
        others = table.filter(pc.invert(pc.or_(seen, listed)))
        whole = complete_table([*rows, *places_of(table.filter(listed))], self.run.keep, others, self.run.columns)
        metadata = self._metadata(table)
        data = table_to_parquet(whole, metadata)
        target = self.run.path(layout.unit_file(*unit))
        written = storage.put_if_absent(target, data, single_writer=self.job.config.output.single_writer)
        cap = self.run.manifest.config["detect"]["max_detections"]
        sums = sums_of(whole.replace_schema_metadata(metadata), cap)
        return (len(data), sums.stored()) if written and sums.in_order else None

    def _metadata(self, table: pa.Table) -> dict[str, str]:
        """Return what found the boxes stays; no work was done for them now."""
        before = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
        return {
            **{name: value for name, value in before.items() if name.startswith(_ORIGIN)},
            "run_id": self.run.manifest.run_id,
            "prompts_fingerprint": self.job.plan.fingerprint,
            **UnitWork().to_metadata(),
            **stamp(time.time()),
        }
