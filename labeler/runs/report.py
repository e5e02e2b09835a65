"""report.json: what a run holds, counted from its commits alone, at any time."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from labeler import storage
from labeler.labels.records import ALL_NAMES, STATUSES
from labeler.labels.revised import CUT
from labeler.runs.erasure.excluded import read_excluded
from labeler.runs.manifest import Run
from labeler.runs.plan import listed_beside, undamaged
from labeler.runs.progress import Progress
from labeler.runs.receipts import take_receipts
from labeler.runs.rows import PREFETCH_FILES
from labeler.runs.snapshot import Snapshot
from labeler.runs.sums import RunSums
from labeler.runs.sums_of_units import sum_units
from labeler.runs.timeline import timeline
from labeler.shards import skipped

_MOST_ERRORS = 50


@dataclass(frozen=True)
class Report:
    """Counts of a run.

    Attributes:
        images: rows committed.
        images_planned: images of the plan as far as known; `images_planned_exact` says whether that is all.
        skipped_files: files beside the input and members of tars that are not images, by extension.
        images_to_forget: images on the run's list of removed images whose rows have more than their place: they were
            labeled at the same time, or the list came later.
        passes, retries, memory_halvings, bytes_read, stage_seconds, batch_fill: what labeling took, summed over the
            files of units, see `UnitWork`; files of earlier versions of labeler do not say, and count 0.
        timeline: images committed per span of time, see `timeline`; None where all was committed within a second.
        problems: rows missing or doubled inside what is committed; empty for a sound run.
    """

    run_id: str
    complete: bool
    shards: int
    shards_finished: int
    units: int
    images: int
    images_planned: int
    images_planned_exact: bool
    statuses: dict[str, int]
    errors: dict[str, int]
    detections: int
    categories: dict[str, int]  # category id -> detections
    categories_never_found: int
    images_at_cap: int
    passes: int
    retries: int
    memory_halvings: int
    bytes_read: int
    stage_seconds: dict[str, float]
    batch_fill: float | None
    timeline: dict[str, Any] | None
    skipped_files: dict[str, int]
    images_to_forget: int
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def build_report(snapshot: Snapshot, *, receipts: bool = True) -> Report:
    """Add up every committed row's status and categories, and check that each shard's indices are 0..n-1, once each.

    Args:
        receipts: take the sums of units from the receipts of the jobs that wrote them, where those count; False reads
            and so checks all rows.

    Raises:
        StorageError: if a unit file that is read is damaged, or cannot be read.
    """
    run, plan, progress = snapshot.run, snapshot.plan, snapshot.progress
    totals, excluded = RunSums(), read_excluded(run)
    mine = _of_the_plan(snapshot)
    left = take_receipts(run, mine, excluded, totals) if receipts else mine
    for count in sum_units(replace(snapshot, progress=left), excluded):
        totals.add(*count)
    problems = _check_indices(totals, progress)
    planned, exact = progress.images_known(plan)
    vocabulary = [c.id for c in run.vocabulary().categories if not c.negative]
    return Report(
        run_id=run.manifest.run_id,
        complete=snapshot.is_complete and not problems,
        shards=len(plan),
        shards_finished=len(plan) - len(snapshot.left),
        units=progress.committed_units,
        images=sum(totals.statuses.values()),
        images_planned=planned,
        images_planned_exact=exact,
        statuses={status: totals.statuses[status] for status in STATUSES if totals.statuses[status]},
        errors=_most_frequent(totals.errors),
        detections=sum(totals.categories.values()),
        categories={str(id_): n for id_, n in sorted(totals.categories.items())},
        categories_never_found=sum(id_ not in totals.categories for id_ in vocabulary),
        images_at_cap=totals.at_cap,
        **totals.work.summary(),
        timeline=timeline(sorted(totals.commits)),
        skipped_files=_skipped_files(run, progress),
        images_to_forget=totals.to_forget,
        problems=tuple(problems),
    )


def _skipped_files(run: Run, progress: Progress) -> dict[str, int]:
    """As listed when the input was planned, and as the end markers say of the shards that were read to their ends."""
    with ThreadPoolExecutor(PREFETCH_FILES) as pool:
        found = sum(pool.map(_in_marker, progress.marker_uris), listed_beside(run))
    return dict(sorted(found.items(), key=lambda each: (-each[1], each[0])))


def _in_marker(uri: str) -> Counter[str]:
    with undamaged(uri, "remove it and run the label command again"):
        return skipped.from_bytes(storage.read_bytes(uri))


def _of_the_plan(snapshot: Snapshot) -> Progress:
    """Without what another job has committed meanwhile of an extension that this plan does not have."""
    known, progress = {planned.shard_id for planned in snapshot.plan}, snapshot.progress
    units = {shard_id: progress.units[shard_id] for shard_id in progress.units.keys() & known}
    return replace(progress, units=units)


def _most_frequent(errors: Counter[str]) -> dict[str, int]:
    """The same ones in the same order, wherever their sums came from; one that is about good rows is among them."""
    ordered = sorted(errors.items(), key=lambda each: (-each[1], each[0]))
    return dict(each for place, each in enumerate(ordered) if place < _MOST_ERRORS or each[0] in (CUT, ALL_NAMES))


def _check_indices(totals: RunSums, progress: Progress) -> list[str]:
    """Return the gaps between units: in a finished shard, units must begin exactly where the previous unit ended."""
    problems = []
    for shard_id, extents in sorted(totals.extents.items()):
        finished, end, rows = progress.is_finished(shard_id), progress.ends.get(shard_id), 0
        for _, first, last, in_order in sorted(extents):
            start = rows if finished else first
            if not in_order or first != start:
                problems.append(f"shard {shard_id}: rows {first}..{last} do not continue from row {start}")
            rows = last + 1
        if end and finished and end[1] != rows:
            problems.append(f"shard {shard_id} has {rows} rows, its end marker says {end[1]}")
    return problems
