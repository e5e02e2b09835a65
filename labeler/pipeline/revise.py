"""A run with another vocabulary: what stays is taken over, and only the new prompt chunks are run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from labeler import storage
from labeler.labeling.detector import Detector
from labeler.labeling.revision import RevisionJob
from labeler.labels.detections import Detections
from labeler.labels.records import LABELED, complete_table, table_to_parquet, table_to_rows
from labeler.labels.revised import Change
from labeler.pipeline.derive import derive, open_derived
from labeler.pipeline.session import Outcome, finish, new_run, refusals
from labeler.runs import Run, Snapshot, UnitKey, layout, read_snapshot, read_unit_file
from labeler.runs.create import create_run

_REDONE = tuple(sorted(LABELED))
_WRITES = 16


def revise(
    parent: Run,
    revision: RevisionJob,
    *,
    make_detector: Callable[[], Detector] | None = None,
    console: Console | None = None,
) -> Outcome:
    """Make the derived run of a changed vocabulary, or go on where that stopped.

    Images that the run could not label stay as they are; `labeler retry` of the derived run labels those.

    Raises:
        Refused: the run is incomplete, or the output holds something else.
        Incomplete: as `label`.
    """
    if not revision.revision.new_passes:
        return _without_passes(parent, revision)
    outcome = derive(
        parent, revision.job, _REDONE, change=revision.change, make_detector=make_detector, console=console
    )
    assert outcome is not None  # it writes every unit, whatever is in it
    return outcome


def _without_passes(parent: Run, revision: RevisionJob) -> Outcome:
    """Names are only removed, or have other ids: the rows are written again, and no image is read."""
    with refusals():
        opened = open_derived(parent, revision.job, _REDONE)
        job, output = opened.job, opened.job.config.output
        run = opened.run
        if run is None:
            storage.check_put_if_absent(output.uri, single_writer=output.single_writer)
            run = create_run(output.uri, new_run(job, parent=parent, whole=True), single_writer=output.single_writer)
    left = [(id_, unit) for id_, units in read_snapshot(run).progress.pending.items() for unit in sorted(units)]
    write = partial(_rewrite, run, opened.below, revision.change, single_writer=output.single_writer)
    with ThreadPoolExecutor(_WRITES) as pool:
        for _ in pool.map(write, left):
            pass
    return finish(read_snapshot(run))


def _rewrite(run: Run, below: Snapshot, change: Change, key: UnitKey, *, single_writer: bool) -> None:
    table = read_unit_file(below.progress.unit_uri(*key))
    done = pc.is_in(table["status"], value_set=pa.array(_REDONE, pa.string()))
    rows = [
        change.apply(replace(earlier, detections=Detections.empty()), earlier)
        for earlier in table_to_rows(table.filter(done), run.keep)
    ]
    metadata = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
    whole = complete_table(rows, run.keep, table.filter(pc.invert(done)), run.columns)
    data = table_to_parquet(whole, {**metadata, "run_id": run.manifest.run_id})
    storage.put_if_absent(run.path(layout.unit_file(*key)), data, single_writer=single_writer)
