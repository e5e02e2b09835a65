"""A run at one moment: its plan and its commits, read together and held against each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa

from labeler import storage
from labeler.errors import Refused
from labeler.labels.chosen_score import DETECTORS, ChosenScore
from labeler.runs import layout
from labeler.runs.manifest import Run
from labeler.runs.plan import PlannedShard, file_name_prefix, generations, read_plan
from labeler.runs.progress import Progress, read_progress
from labeler.runs.rows import UnitKey, iterate_units, only_units, units_in_order


@dataclass(frozen=True)
class Snapshot:
    """A run's plan, and the committed part of it.

    Attributes:
        score: that rows are read with, in the place of the detector's.
    """

    run: Run
    plan: Sequence[PlannedShard]
    progress: Progress
    score: ChosenScore = DETECTORS

    @cached_property
    def left(self) -> list[PlannedShard]:
        """Shards that are not finished."""
        return self.progress.left(self.plan)

    @property
    def is_complete(self) -> bool:
        return not self.left

    def require_complete(self, or_else: str) -> None:
        """Raise Refused while shards are unfinished; `or_else` says what to do with what there is."""
        if self.left:
            raise Refused(
                f"run {storage.redact(self.run.uri)} is incomplete ({len(self.left)} of {len(self.plan)} shards "
                f"unfinished); resume it with the label command, or {or_else}"
            )

    @cached_property
    def prefixes(self) -> dict[str, str]:
        """Shard id -> what the file name of an image has before its key."""
        return {planned.shard_id: file_name_prefix(planned) for planned in self.plan}

    @cached_property
    def planned(self) -> dict[str, PlannedShard]:
        """Shard id -> the shard of the plan."""
        return {planned.shard_id: planned for planned in self.plan}

    def unit_keys(self) -> list[UnitKey]:
        """The committed units, in key order."""
        return units_in_order(self.plan, self.progress)

    def only(self, units: Iterable[UnitKey]) -> Snapshot:
        """As if no other units than these were committed."""
        return replace(self, progress=only_units(self.progress, units))

    def units(self, columns: Sequence[str] | None = None) -> Iterator[tuple[UnitKey, pa.Table]]:
        """Each committed unit's rows, in key order; see `iterate_units`."""
        for unit, table in iterate_units(self.plan, self.progress, columns):
            yield unit, self.score.swap(table)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows alone."""
        return (table for _, table in self.units(columns))


def read_snapshot(run: Run) -> Snapshot:
    """Read the plan of a run, and what is committed of it.

    Raises:
        StorageError: if a file cannot be read, or something is committed that the plan does not have: then a plan file
            is gone, or files of another run were copied into this one.
    """
    plan = read_plan(run)
    progress = read_progress(run, len(plan))
    if stray_file(plan, progress) is not None:
        plan = read_plan(run)  # a job that extends the run may have come in between
    if (stray := stray_file(plan, progress)) is not None:
        next_plan = run.root.path(layout.plan_file(generations(run.root)))
        raise storage.StorageError(
            f"{storage.redact(stray)} belongs to a shard that is not among the {len(plan):,} of the plan; restore the "
            f"plan file that is missing ({storage.redact(next_plan)}), or remove what is not of this run"
        )
    return Snapshot(run, plan, progress)


def stretches(snapshot: Snapshot, units: int) -> Iterator[Snapshot]:
    """Yield the snapshot in parts of whole shards with about `units` committed units each, as `stretch_of`."""
    keys: list[UnitKey] = []
    for key in snapshot.unit_keys():
        if len(keys) >= units and key[0] != keys[-1][0]:
            yield stretch_of(snapshot, keys)
            keys = []
        keys.append(key)
    if keys:
        yield stretch_of(snapshot, keys)


def stretch_of(snapshot: Snapshot, keys: Sequence[UnitKey]) -> Snapshot:
    """Return a snapshot of these units, in order, with no more of the plan and the commits than reading them needs."""
    shards = dict.fromkeys(shard_id for shard_id, _ in keys)
    part = snapshot.only(keys)
    folders = tuple(
        (folder, {shard_id: units[shard_id] for shard_id in shards if shard_id in units})
        for folder, units in part.progress.folders
    )
    progress = replace(part.progress, ends={}, folders=folders, pending={}, marker_uris=(), sizes=())
    return replace(part, plan=[snapshot.planned[shard_id] for shard_id in shards], progress=progress)


def stray_file(plan: list[PlannedShard], progress: Progress) -> str | None:
    """Return a unit file or end marker of a shard that the plan does not have, or None."""
    known = {planned.shard_id for planned in plan}
    for folder, units in progress.folders:
        for shard_id in sorted(units.keys() - known):
            return storage.join(folder, layout.unit_file(shard_id, min(units[shard_id])))
    for shard_id in sorted(progress.ends.keys() - known):
        return storage.join(progress.folders[-1][0], layout.end_marker(shard_id, *progress.ends[shard_id]))
    return None
