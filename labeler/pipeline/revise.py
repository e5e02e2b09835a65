"""A run with another vocabulary: what stays is taken over, and only the new prompt chunks are run."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from labeler import storage
from labeler.labeling.detector import Detector
from labeler.labeling.resolve import Job
from labeler.labeling.revision import RevisionJob
from labeler.labels.detections import Detections
from labeler.labels.records import LABELED, complete_table, places_of, table_to_parquet, table_to_rows
from labeler.labels.revised import Change
from labeler.labels.unit_work import UnitWork
from labeler.pipeline.derive import derive, open_derived
from labeler.pipeline.session import Outcome, finish, new_run, refusals, warn_of_versions
from labeler.runs import Run, Snapshot, UnitKey, layout, read_snapshot, read_unit_file
from labeler.runs.create import create_run
from labeler.runs.erasure.excluded import Excluded, load_excluded, read_excluded, write_excluded
from labeler.runs.timeline import stamp
from labeler.terminal import message_console

_REDONE = tuple(sorted(LABELED))
_WRITES = 16
# Of a unit file's metadata: what found its boxes.
_ORIGIN = ("model_", "segmenter_", "version_", "engine", "dtype", "device", "pairs", "memory", "cuda_graphs", "jpeg_")


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
    console = console or message_console()
    warn_of_versions(parent, f"run {storage.redact(parent.uri)}", console)
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
        excluded = load_excluded(map(storage.absolute_uri, job.config.input.exclude))
        run = opened.run
        if run is None:
            storage.check_put_if_absent(output.uri, single_writer=output.single_writer)
            run = create_run(output.uri, new_run(job, parent=parent, whole=True), single_writer=output.single_writer)
        write_excluded(run, excluded)
        rewrite = _Rewrite(run, opened.below, revision.change, read_excluded(run), job)
    left = [(id_, unit) for id_, units in read_snapshot(run).progress.pending.items() for unit in sorted(units)]
    with ThreadPoolExecutor(_WRITES) as pool:
        for _ in pool.map(rewrite, left):
            pass
    return finish(read_snapshot(run))


@dataclass(frozen=True)
class _Rewrite:
    """Writes a unit of the derived run from the rows of `below`; of excluded images only their places are left."""

    run: Run
    below: Snapshot
    change: Change
    excluded: Excluded
    job: Job

    def __call__(self, unit: UnitKey) -> None:
        table = read_unit_file(self.below.progress.unit_uri(*unit))
        listed = pa.array(self.excluded.of_rows(table, self.below.prefixes[unit[0]]), pa.bool_())
        done = pc.and_not(pc.is_in(table["status"], value_set=pa.array(_REDONE, pa.string())), listed)
        rows = [
            self.change.apply(replace(earlier, detections=Detections.empty()), earlier)
            for earlier in table_to_rows(table.filter(done), self.run.keep)
        ]
        others = table.filter(pc.invert(pc.or_(done, listed)))
        whole = complete_table([*rows, *places_of(table.filter(listed))], self.run.keep, others, self.run.columns)
        data = table_to_parquet(whole, self._metadata(table))
        target = self.run.path(layout.unit_file(*unit))
        storage.put_if_absent(target, data, single_writer=self.job.config.output.single_writer)

    def _metadata(self, table: pa.Table) -> dict[str, str]:
        """What found the boxes stays; no work was done for them now."""
        before = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
        return {
            **{name: value for name, value in before.items() if name.startswith(_ORIGIN)},
            "run_id": self.run.manifest.run_id,
            "prompts_fingerprint": self.job.plan.fingerprint,
            **UnitWork().to_metadata(),
            **stamp(time.time()),
        }
