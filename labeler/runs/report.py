"""report.json: what a run holds, counted from its commits alone, at any time."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from labeler import storage
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.records import STATUSES
from labeler.labels.unit_work import UnitWork
from labeler.runs.erasure.excluded import read_excluded
from labeler.runs.manifest import Run
from labeler.runs.plan import listed_beside, undamaged
from labeler.runs.progress import Progress
from labeler.runs.rows import PREFETCH_FILES
from labeler.runs.snapshot import Snapshot
from labeler.runs.timeline import committed_at, timeline
from labeler.shards import skipped


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


def build_report(snapshot: Snapshot) -> Report:
    """Read every committed row's status and categories, and check that each shard's indices are 0..n-1, once each."""
    run, plan, progress = snapshot.run, snapshot.plan, snapshot.progress
    statuses: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    categories: Counter[int] = Counter()
    cap = run.manifest.config["detect"]["max_detections"]
    problems: list[str] = []
    next_index: dict[str, int] = {}
    at_cap = to_forget = 0
    work, commits = UnitWork(), list[tuple[float, int]]()
    excluded, prefixes = read_excluded(run), snapshot.prefixes
    columns = (
        "shard_id",
        "index",
        "status",
        "error",
        "detections",  # with masks: a damaged one is found here
        *(("image_key", "digest") if len(excluded) else ()),
    )
    for table in snapshot.tables(columns):
        to_forget += int(excluded.of_rows(table, prefixes[table["shard_id"][0].as_py()]).sum())
        work.add(UnitWork.from_metadata(table.schema.metadata))
        if (moment := committed_at(table.schema.metadata)) is not None:
            commits.append((moment, table.num_rows))
        statuses.update(table["status"].to_pylist())
        errors.update(reason for reason in table["error"].to_pylist() if reason)
        column = DetectionsColumn(table)
        at_cap += int((column.lengths == cap).sum()) if cap else 0
        ids, counts = np.unique(column.category_ids, return_counts=True)
        categories.update(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
        _check_indices(table, next_index, problems, progress)
    for shard_id, images in next_index.items():
        end = progress.ends.get(shard_id)
        if end and progress.is_finished(shard_id) and end[1] != images:
            problems.append(f"shard {shard_id} has {images} rows, its end marker says {end[1]}")
    planned, exact = progress.images_known(plan)
    vocabulary = [c.id for c in run.vocabulary().categories if not c.negative]
    return Report(
        run_id=run.manifest.run_id,
        complete=snapshot.is_complete and not problems,
        shards=len(plan),
        shards_finished=len(plan) - len(snapshot.left),
        units=progress.committed_units,
        images=sum(statuses.values()),
        images_planned=planned,
        images_planned_exact=exact,
        statuses={status: statuses[status] for status in STATUSES if statuses[status]},
        errors=dict(errors.most_common(50)),
        detections=sum(categories.values()),
        categories={str(id_): n for id_, n in sorted(categories.items())},
        categories_never_found=sum(id_ not in categories for id_ in vocabulary),
        images_at_cap=at_cap,
        **work.summary(),
        timeline=timeline(sorted(commits)),
        skipped_files=_skipped_files(run, progress),
        images_to_forget=to_forget,
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


def _check_indices(table: Any, next_index: dict[str, int], problems: list[str], progress: Progress) -> None:
    """Units come in order: in a finished shard each table must go on exactly where the one before ended."""
    shard_id = table["shard_id"][0].as_py()
    indices = table["index"].to_numpy()
    finished = progress.is_finished(shard_id)
    start = next_index.get(shard_id, 0) if finished else int(indices[0])
    if not np.array_equal(indices, np.arange(start, start + len(indices))):
        problems.append(f"shard {shard_id}: rows {indices[0]}..{indices[-1]} do not go on from row {start}")
    next_index[shard_id] = int(indices[-1]) + 1
